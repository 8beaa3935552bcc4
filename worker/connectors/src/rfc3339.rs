//! Times as RFC 3339 text (`2013-01-01T10:00:00Z`) in fields of rows.
//!
//! ```
//! use millrace_engine::data::Ts;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Flight {
//!     #[serde(with = "millrace_connectors::rfc3339")]
//!     time_hour: Ts,
//! }
//! ```
//!
//! Reading allocates nothing. In formats that people do not read (between
//! workers, in state) such a field is a number. Days as in Howard Hinnant,
//! "chrono-compatible low-level date algorithms".

use millrace_engine::data::Ts;
use serde::{Deserializer, Serializer, de};
use std::fmt;

const DAY_MS: i64 = 86_400_000;

/// Reads a time; `None` if it is no RFC 3339 date and time. A space may stand
/// for the `T`; digits below the millisecond are cut off.
pub fn parse(text: &str) -> Option<Ts> {
    let b = text.as_bytes();
    let number = |from: usize, len: usize| {
        b.get(from..from + len)?.iter().try_fold(0i64, |n, digit| {
            digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0'))
        })
    };
    let is = |at: usize, of: &[u8]| b.get(at).is_some_and(|byte| of.contains(byte));
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let sound = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    // A leap second is taken as the first of the next minute.
    if !marks || !sound || second > 60 || civil(days(year, month, day)) != (year, month, day) {
        return None;
    }
    let mut at = 19;
    let mut ms = 0;
    if is(at, b".") {
        at += 1;
        let digits = b[at..].iter().take_while(|digit| digit.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        ms = (0..3)
            .fold(0, |ms, i| ms * 10 + if i < digits { i64::from(b[at + i] - b'0') } else { 0 });
        at += digits;
    }
    let offset_minutes = match *b.get(at)? {
        b'Z' | b'z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && is(at + 3, b":") => {
            let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute - offset_minutes) * 60 + second;
    Some(days(year, month, day) * DAY_MS + seconds * 1000 + ms)
}

/// Shows a time in UTC, with milliseconds only if there are any.
pub fn format(ts: Ts) -> impl fmt::Display {
    Shown(ts)
}

struct Shown(Ts);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(DAY_MS));
        let ms = self.0.rem_euclid(DAY_MS);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match ms % 1000 {
            0 => f.write_str("Z"),
            ms => write!(f, ".{ms:03}Z"),
        }
    }
}

/// Days from the epoch to a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is their last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day since the epoch.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// For `#[serde(with = "millrace_connectors::rfc3339")]`.
pub fn serialize<S: Serializer>(ts: &Ts, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(&format(*ts))
    } else {
        serializer.serialize_i64(*ts)
    }
}

/// For `#[serde(with = "millrace_connectors::rfc3339")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ts, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = Ts;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an RFC 3339 time, as 2013-01-01T10:00:00Z")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Ts, E> {
            parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_i64<E: de::Error>(self, ts: i64) -> Result<Ts, E> {
            Ok(ts)
        }
    }
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(Text)
    } else {
        deserializer.deserialize_i64(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_show_the_same() {
        for (text, ts) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2013-01-01T10:00:00Z", 1_357_034_400_000),
            ("2012-02-29T23:59:59.007Z", 1_330_559_999_007),
            ("1969-12-31T23:59:59.999Z", -1),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ] {
            assert_eq!(parse(text), Some(ts), "{text}");
            assert_eq!(format(ts).to_string(), text);
        }
        assert_eq!(parse("2013-01-01 05:00:00.5-05:00"), Some(1_357_034_400_500));
        for bad in [
            "",
            "2013-01-01",
            "2013-02-29T00:00:00Z",
            "2013-01-01T10:00:00",
            "2013-13-01T10:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:00:00+1:00",
            "2013-01-01T10:00:00.Z",
            "2013-01-01T10:00:00Zx",
            "2013-01-01T1x:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

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
    let (fixed, rest) = text.as_bytes().split_first_chunk::<19>()?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T' | b't' | b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
    ] = *fixed
    else {
        return None;
    };
    let two = |a: u8, b: u8| {
        let (a, b) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
        (a < 10 && b < 10).then(|| i64::from(a * 10 + b))
    };
    let (year, month, day) = (two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    let in_month = (1..=12).contains(&month) && (1..=days_of_month(year, month)).contains(&day);
    // A leap second is taken as the first of the next minute.
    if !in_month || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (ms, zone) = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|digit| digit.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let digit = |i: usize| if i < digits { i64::from(fraction[i] - b'0') } else { 0 };
            (digit(0) * 100 + digit(1) * 10 + digit(2), &fraction[digits..])
        }
        zone => (0, zone),
    };
    let offset_minutes = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
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
        let (hour, minute, second, ms) =
            (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
        if !(0..10_000).contains(&year) {
            return write!(
                f,
                "{year:+05}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
            );
        }
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |at: usize, value: i64| {
            text[at] += (value / 10 % 10) as u8;
            text[at + 1] += (value % 10) as u8;
        };
        put(0, year / 100);
        put(2, year);
        put(5, month);
        put(8, day);
        put(11, hour);
        put(14, minute);
        put(17, second);
        put(21, ms);
        text[20] += (ms / 100) as u8;
        let len = if ms == 0 { 19 } else { 23 };
        text[len] = b'Z';
        f.write_str(std::str::from_utf8(&text[..=len]).map_err(|_| fmt::Error)?)
    }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
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
    fn every_day_is_its_date() {
        let mut expected = (1896, 12, 31);
        for day in days(1896, 12, 31)..days(2105, 1, 1) {
            assert_eq!(civil(day), expected);
            let (y, m, d) = expected;
            assert_eq!(days(y, m, d), day);
            assert_eq!(parse(&format(day * DAY_MS).to_string()), Some(day * DAY_MS));
            expected = match (m, d) {
                (12, 31) => (y + 1, 1, 1),
                _ if d == days_of_month(y, m) => (y, m + 1, 1),
                _ => (y, m, d + 1),
            };
        }
    }

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

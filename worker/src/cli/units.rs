//! Numbers as people read them. Pure.

use std::time::Duration;

/// `336,776`; from ten million on `12.3 M`.
pub fn count(n: u64) -> String {
    if n >= 10_000_000 {
        return scaled(n as f64, 1000.0, &["", " K", " M", " G", " T", " P", " E"]);
    }
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + 2);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate per second: `950`, `12.3 K`.
pub fn rate(per_second: f64) -> String {
    scaled(per_second, 1000.0, &["", " K", " M", " G", " T"])
}

/// `512 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

fn scaled(mut n: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would be shown as 1000 goes into the next unit.
    while n >= step - 0.5 && unit + 1 < units.len() {
        n /= step;
        unit += 1;
    }
    let places = usize::from(unit > 0 && n < 99.95);
    format!("{n:.places$}{}", units[unit])
}

/// `12 ms`, `3.4 s`, `2m05s`, `3h04m`, `2d03h`.
pub fn duration(time: Duration) -> String {
    let (millis, seconds) = (time.as_millis(), time.as_secs());
    match seconds {
        0 => format!("{millis} ms"),
        1..10 => format!("{:.1} s", (millis / 100) as f64 / 10.0),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `1 file`, `2 files`.
pub fn plural(n: usize, what: &str) -> String {
    format!("{} {what}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 1000, 9_999_999].map(count), ["0", "999", "1,000", "9,999,999"]);
        assert_eq!([10_000_000, 999_960_000].map(count), ["10.0 M", "1.0 G"]);
        assert_eq!([0.0, 999.4, 999.6, 12_345.0].map(rate), ["0", "999", "1.0 K", "12.3 K"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let times = [12, 3_450, 59_999, 125_000, 11_040_000, 183_600_000];
        let shown = ["12 ms", "3.4 s", "59 s", "2m05s", "3h04m", "2d03h"];
        assert_eq!(times.map(|ms| duration(Duration::from_millis(ms))), shown);
    }
}

use super::*;

fn style(width: usize) -> Style {
    Style { width, colour: false }
}

fn view() -> View {
    let operator = |name: &str, kind: &str| OperatorView {
        name: name.to_owned(),
        kind: kind.to_owned(),
        parallelism: 2,
        ..OperatorView::default()
    };
    View {
        name: "flight-delays".to_owned(),
        state: Doing::Running,
        attempt: Some(3),
        restarts: 1,
        at_ms: 1_790_000_000_000,
        up_ms: 12_000,
        checkpoint: Some(CheckpointView {
            id: 17,
            age_ms: 2_100,
            took_ms: 12,
            bytes: 1_300_000,
            entries: 4_096,
            files: 9,
        }),
        dead_letters: 3,
        operators: vec![
            OperatorView {
                rows_out: 300_000,
                watermark: Some(1_357_034_400_000),
                busy_ns: 10_000_000_000,
                blocked_ms: 12_600,
                ..operator("flights", "source")
            },
            OperatorView {
                rows_in: 299_000,
                rows_out: 2_100,
                late_dropped: 5,
                watermark: Some(1_357_030_800_000),
                state_bytes: 260_000,
                state_entries: 1_234,
                busy_ns: 2_000_000_000,
                ..operator("delays per origin", "operator")
            },
            OperatorView { rows_in: 2_100, ..operator("delays", "sink") },
        ],
        ..View::default()
    }
}

fn check(lines: &[String], expected: &str) {
    let expected: Vec<&str> = expected.trim_matches('\n').lines().map(str::trim_end).collect();
    assert_eq!(lines.join("\n"), expected.join("\n"));
}

#[test]
fn a_wide_terminal_shows_all() {
    check(&render(&view(), None, style(160)), include_str!("wide.txt"));
}

#[test]
fn a_narrow_terminal_shows_what_matters() {
    let lines = render(&view(), None, style(80));
    check(&lines, include_str!("narrow.txt"));
    for width in 0..200 {
        let view = View { failures: vec!["operator \"x\":\n boom ".repeat(20)], ..view() };
        for line in render(&view, None, style(width)).iter().take(if width < 20 { 0 } else { 99 }) {
            assert!(length(line) <= width, "{width}: {line}");
        }
    }
}

#[test]
fn rates_are_those_since_the_view_before() {
    let before = view();
    let mut now = view();
    now.up_ms += 500;
    now.dead_letters += 2;
    now.operators[0].rows_out += 50_000;
    now.operators[0].busy_ns += 250_000_000;
    let lines = render(&now, Some(&before), style(160));
    assert!(lines[1].contains("5 bad rows (+2)"), "{}", lines[1]);
    let source = lines.iter().find(|line| line.starts_with("flights")).unwrap();
    assert!(source.contains("100 K") && source.contains("25%"), "{source}");
    // Another attempt counts from nothing.
    let other = View { attempt: Some(2), ..before };
    assert_eq!(render(&now, Some(&other), style(160))[3..], render(&now, None, style(160))[3..]);
}

#[test]
fn what_is_not_known_yet_is_not_shown() {
    let view = View { name: "job".to_owned(), up_ms: 300, ..View::default() };
    check(&render(&view, None, style(80)), include_str!("empty.txt"));
}

#[test]
fn colours_only_where_wanted() {
    let view = View { failures: vec!["boom".to_owned()], ..view() };
    let plain = render(&view, None, style(120));
    assert!(!plain.concat().contains('\x1b'));
    let coloured = render(&view, None, Style { width: 120, colour: true });
    assert!(coloured.concat().contains("\x1b[31mlast failure: boom\x1b[0m"));
    let mut bare = coloured.join("\n");
    for code in ["0", BOLD, DIM, RED, GREEN, YELLOW] {
        bare = bare.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(bare, plain.join("\n"));
}

#[test]
fn lag_is_behind_the_clock_or_the_furthest_watermark() {
    assert_eq!(lag(Some(1_000), None, 3_500), "2.5 s");
    assert_eq!(lag(Some(5_000), None, 3_500), "0 ms");
    assert_eq!(lag(Some(0), Some(60_000), LIVE * 400), "1m00s");
    assert_eq!(lag(None, Some(0), 0), "");
    assert_eq!(lag(Some(i64::MAX), Some(0), 0), "");
}

use super::*;
use serde::Deserialize;

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Row {
    name: String,
    n: Option<i32>,
    #[serde(default)]
    x: f64,
}

/// Decodes everything, giving the decoder `chunk` more bytes whenever it asks.
fn decode<T: DeserializeOwned + Send + 'static>(
    csv: &Csv,
    input: &[u8],
    chunk: usize,
) -> (Vec<T>, Vec<(usize, String)>) {
    let mut decoder: CsvDecoder<T> = csv.decoder();
    let (mut at, mut seen) = (0, 0);
    if decoder.has_header() {
        at = loop {
            if let Some(n) = decoder.header(&input[..seen], seen == input.len()).unwrap() {
                break n;
            }
            seen = (seen + chunk).min(input.len());
        };
    }
    let (mut rows, mut bad) = (vec![], vec![]);
    while at < input.len() {
        if at == seen {
            seen = (seen + chunk).min(input.len());
        }
        match decoder.next(&input[at..seen], seen == input.len()) {
            Step::Row(n, row) => (at, _) = (at + n, rows.push(row)),
            Step::Skip(n) => at += n,
            Step::Bad(n, why) => (_, at) = (bad.push((at, why)), at + n),
            Step::More => {
                assert!(seen < input.len());
                seen = (seen + chunk).min(input.len());
            }
            Step::Misfit(why) => panic!("{why}"),
        }
    }
    (rows, bad)
}

fn row(name: &str, n: Option<i32>, x: f64) -> Row {
    Row { name: name.into(), n, x }
}

#[test]
fn columns_are_found_by_name_wherever_the_input_is_cut() {
    let input = b"\xef\xbb\xbfother,n,name,x\r\n1,-7,a,1.5\r\n\n,,\"b,\"\"q\"\"\nc\",2\n9,8,d,0";
    let expected = [row("a", Some(-7), 1.5), row("b,\"q\"\nc", None, 2.0), row("d", Some(8), 0.0)];
    for chunk in 1..input.len() {
        let (rows, bad) = decode::<Row>(&Csv::new(), input, chunk);
        assert_eq!((rows.as_slice(), bad), (expected.as_slice(), vec![]), "chunk {chunk}");
    }
}

#[test]
fn bad_rows_say_where_and_why_and_cost_only_themselves() {
    let input = b"name,n,x\na,1,1\nb,two,1\nc,3\nd,4,1,5\n\xff,1,1\ne,99999999999,1\nf,6,1\n\"g,7,1\nh,8,1\n";
    let (rows, bad) = decode::<Row>(&Csv::new(), input, 1000);
    assert_eq!(rows.iter().map(|r| r.name.as_str()).collect::<String>(), "afh");
    let reasons: Vec<_> = bad.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(reasons[0], "column `n`, value `two`: invalid digit found in string");
    assert_eq!(reasons[1], "2 fields where 3 are expected");
    assert_eq!(reasons[2], "4 fields where 3 are expected");
    assert_eq!(reasons[3], "column `name`, value `\u{fffd}`: not UTF-8");
    assert!(reasons[4].starts_with("column `n`, value `99999999999`: invalid value"));
    assert_eq!(reasons[5], "a quote is opened and never closed");
    assert_eq!(bad[0].0, 15);
}

#[test]
fn a_missing_column_is_no_bad_row_but_a_misfit() {
    let mut decoder: CsvDecoder<Row> = Csv::new().decoder();
    decoder.header(b"n,x\n", true).unwrap();
    let Step::Misfit(why) = decoder.next(b"1,2\n", true) else { panic!() };
    assert_eq!(why, "there is no column `name`; the columns are n, x");
}

#[test]
fn rows_by_position_and_other_nulls() {
    let csv = Csv::new().no_header().delimiter(b'|').null("NA");
    let (rows, bad) = decode::<(String, Option<u8>)>(&csv, b"a|NA\nb|3\n", 4);
    assert_eq!((rows, bad), (vec![("a".into(), None), ("b".into(), Some(3))], vec![]));
    let (rows, _) = decode::<Row>(&Csv::new().positional(), b"x,y,z\na,1,2\n", 4);
    assert_eq!(rows, [row("a", Some(1), 2.0)]);
    let (rows, _) = decode::<u64>(&Csv::new().no_header(), b"18446744073709551615\n7\n", 4);
    assert_eq!(rows, [u64::MAX, 7]);
}

/// On random text of quotes, commas and line breaks the fields are those that
/// the `csv` crate finds.
#[test]
fn agrees_with_the_csv_crate() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..3000 {
        let mut input = Vec::new();
        for _ in 0..rng.usize(1..6) {
            let fields: Vec<String> = (0..3)
                .map(|_| {
                    (0..rng.usize(0..5))
                        .map(|_| rng.choice(['a', 'b', '"', ',', '\n', '\u{e9}', ' ']).unwrap())
                        .collect()
                })
                .collect();
            let mut writer = ::csv::WriterBuilder::new().from_writer(Vec::new());
            writer.write_record(&fields).unwrap();
            input.extend(writer.into_inner().unwrap());
        }
        let theirs: Vec<Vec<String>> = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(&input[..])
            .deserialize()
            .collect::<Result<_, _>>()
            .unwrap();
        let chunk = rng.usize(1..20);
        let (ours, bad) = decode::<Vec<String>>(&Csv::new().no_header(), &input, chunk);
        assert_eq!((ours, bad), (theirs, vec![]), "{:?}", String::from_utf8_lossy(&input));
    }
}

#[test]
fn what_is_written_reads_back() {
    let rows = [row("a,\"b\"\n", None, 16.0), row("", Some(-1), 0.1)];
    let mut encoder = <Csv as Encode<Row>>::encoder(&Csv::new());
    let mut bytes = Vec::new();
    for row in &rows {
        encoder.encode(row).unwrap();
    }
    Encoder::<Row>::drain(&mut encoder, &mut bytes).unwrap();
    assert!(bytes.starts_with(b"name,n,x\n\"a,\"\"b\"\"\n\",,16.0\n"));
    assert_eq!(decode::<Row>(&Csv::new(), &bytes, 3).0, rows);
}

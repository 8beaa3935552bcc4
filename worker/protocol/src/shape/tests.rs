use super::*;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

fn shape<T: Serialize + DeserializeOwned>() -> Shape {
    trace::<T>().unwrap_or_else(|e| panic!("{e}"))
}

fn refused<T: Serialize + DeserializeOwned>(why: &str) {
    let error = trace::<T>().unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

/// Reads `old` as a `New`, as a restore would, and answers how.
fn evolves<
    Old: Serialize + DeserializeOwned,
    New: Serialize + DeserializeOwned + PartialEq + Debug,
>(
    old: &Old,
    new: &New,
) -> Fit {
    let (was, is) = (shape::<Old>(), shape::<New>());
    let fit = compatible(&was, &is).unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = postcard::to_stdvec(old).unwrap();
    bytes.extend_from_slice(b"more");
    let mut rest = bytes.as_slice();
    assert_eq!(&read_by_name::<New>(&mut rest, &was).unwrap(), new);
    assert_eq!(rest, b"more");
    let mut rest = bytes.as_slice();
    skip(&mut rest, &was).unwrap();
    assert_eq!(rest, b"more", "skipped");
    if fit == Fit::Fast {
        assert_eq!(&postcard::take_from_bytes::<New>(&bytes).unwrap().0, new);
    }
    fit
}

fn breaks<Old: Serialize + DeserializeOwned, New: Serialize + DeserializeOwned>(message: &str) {
    let error = compatible(&shape::<Old>(), &shape::<New>()).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Empty,
    One(u32),
    Two(i8, String),
    Named { at: i64, tags: Vec<String> },
    Nested(Option<Box<Inner>>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inner {
    flag: bool,
    ratio: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    unit: (),
    small: i8,
    wide: u128,
    negative: i128,
    letter: char,
    text: String,
    kinds: Vec<Kind>,
    map: BTreeMap<String, (u8, Kind)>,
    array: [u16; 3],
    #[serde(skip)]
    cache: u64,
    id: Id,
    wait: std::time::Duration,
    kept: std::num::NonZeroU32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Id(u64);

fn everything() -> Everything {
    let inner = Inner { flag: true, ratio: 0.5 };
    let kinds = vec![
        Kind::Empty,
        Kind::One(300),
        Kind::Two(-7, "x".into()),
        Kind::Named { at: i64::MIN, tags: vec!["a".into(), String::new()] },
        Kind::Nested(Some(Box::new(inner))),
        Kind::Nested(None),
    ];
    Everything {
        unit: (),
        small: -1,
        wide: u128::MAX,
        negative: i128::MIN,
        letter: 'ß',
        text: "text".into(),
        map: kinds.iter().map(|k| (format!("{k:?}"), (9, k.clone()))).collect(),
        kinds,
        array: [1, 2, 65535],
        cache: 0,
        id: Id(u64::MAX),
        wait: std::time::Duration::from_nanos(1_000_000_001),
        kept: std::num::NonZeroU32::MIN,
    }
}

#[test]
fn all_of_serde_comes_back_by_name() {
    assert_eq!(evolves(&everything(), &everything()), Fit::Fast);
    let Shape::Struct(record) = shape::<Everything>() else { panic!("a struct") };
    let names: Vec<_> = record.fields.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names[..4], ["unit", "small", "wide", "negative"]);
    assert!(!names.contains(&"cache"));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct V1 {
    count: u32,
    name: String,
    mean: f32,
    gone: Vec<Inner>,
    kind: KindV1,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum KindV1 {
    A,
    B { x: u8 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct V2 {
    name: String,
    #[serde(default = "seven")]
    added: u8,
    mean: f64,
    count: u64,
    note: Option<String>,
    kind: KindV2,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum KindV2 {
    New(String),
    B {
        x: i16,
        #[serde(default)]
        y: bool,
    },
    A,
}

fn seven() -> u8 {
    7
}

#[test]
fn fields_may_be_added_removed_reordered_and_widened() {
    let gone = vec![Inner { flag: false, ratio: 1.0 }];
    let v1 = |kind| V1 { count: 5, name: "n".into(), mean: 1.5, gone: Vec::new(), kind };
    let v2 = |kind| V2 { name: "n".into(), added: 7, mean: 1.5, count: 5, note: None, kind };
    let old = V1 { gone, ..v1(KindV1::B { x: 200 }) };
    assert_eq!(evolves(&old, &v2(KindV2::B { x: 200, y: false })), Fit::ByName);
    evolves(&v1(KindV1::A), &v2(KindV2::A));
    evolves(&(1_u8, 2_i8), &(1_i64, Some(2_i64)));
    evolves(&vec![Some(1_u16)], &vec![Some(1_u64)]);
    evolves(&BTreeMap::from([(1_u8, 2_u8)]), &HashMap::from([(1_u32, 2_u32)]));
    assert_eq!(evolves(&5_u32, &Id32(5)), Fit::Fast);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Id32(u32);

#[test]
fn what_would_lose_or_misread_is_refused() {
    breaks::<u64, u32>("was u64, is u32");
    breaks::<i64, u64>("was i64, is u64");
    breaks::<u32, f64>("was u32, is f64");
    breaks::<Option<u8>, u8>("was Option<u8>, is u8");
    breaks::<(u8, u8), (u8, u8, u8)>("was (u8, u8), is (u8, u8, u8)");
    breaks::<V2, V1>("count: was u64, is u32");
    breaks::<Vec<Kind>, Vec<KindV1>>("[].Empty: was a variant, is missing in enum KindV1");
    #[derive(Serialize, Deserialize)]
    struct Wide {
        inner: Inner,
    }
    #[derive(Serialize, Deserialize)]
    struct Other {
        inner: InnerPlus,
    }
    #[derive(Serialize, Deserialize)]
    struct InnerPlus {
        flag: bool,
        ratio: f32,
        needed: String,
    }
    breaks::<Wide, Other>("inner.needed: was missing, is String without a serde default");
}

#[test]
fn an_alias_reads_the_old_name() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        before: u32,
        same: u8,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        #[serde(alias = "before")]
        after: u32,
        same: u8,
    }
    assert_eq!(evolves(&Old { before: 3, same: 1 }, &New { after: 3, same: 1 }), Fit::ByName);
    assert_eq!(evolves(&New { after: 3, same: 1 }, &New { after: 3, same: 1 }), Fit::Fast);
}

#[test]
fn what_cannot_be_traced_says_so() {
    #[derive(Serialize, Deserialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        rest: HashMap<String, u8>,
    }
    refused::<Flat>("flatten");
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        A(u8),
        B(String),
    }
    refused::<Vec<Untagged>>("untagged");
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t")]
    enum Tagged {
        A { x: u8 },
        B,
    }
    refused::<Tagged>("tagged");
    #[derive(Serialize, Deserialize)]
    struct Skips {
        a: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        b: Option<u8>,
        c: u8,
    }
    refused::<Skips>("field b is not always written");
    #[derive(Serialize, Deserialize)]
    struct Tree {
        value: u8,
        children: Vec<Tree>,
    }
    refused::<Tree>("recursive");
    #[derive(Serialize, Deserialize)]
    enum Expr {
        Lit(i64),
        Add(Box<Expr>, Box<Expr>),
    }
    refused::<Expr>("recursive");
    refused::<serde_json::Value>("any type");
}

#[test]
fn broken_bytes_are_errors() {
    let was = shape::<Everything>();
    let whole = postcard::to_stdvec(&everything()).unwrap();
    for cut in 0..whole.len() {
        assert!(read_by_name::<Everything>(&mut &whole[..cut], &was).is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        // Whatever comes, it comes without a panic and without much memory.
        let _ = read_by_name::<Everything>(&mut bytes.as_slice(), &was);
    }
}

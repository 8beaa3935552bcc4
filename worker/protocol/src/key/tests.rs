use super::*;
use std::fmt::Debug;

/// Bytes must sort as keys do, read back as they were, and leave what follows.
fn check<K: Key + Ord + Debug>(keys: &[K]) {
    let written = |key: &K| {
        let mut out = Vec::new();
        key.write(&mut out);
        out
    };
    for a in keys {
        let mut bytes = written(a);
        bytes.extend_from_slice(b"\xff\x00tail");
        let mut rest = bytes.as_slice();
        assert_eq!(K::read(&mut rest).as_ref(), Ok(a));
        assert_eq!(rest, b"\xff\x00tail", "{a:?} takes its own bytes only");
        for cut in 0..written(a).len() {
            let whole = written(a);
            assert!(K::read(&mut &whole[..cut]).is_err(), "{a:?} cut at {cut}");
        }
        for b in keys {
            assert_eq!(written(a).cmp(&written(b)), a.cmp(b), "{a:?} and {b:?}");
            // Whatever follows a smaller key, it stays smaller.
            if a < b {
                let (mut low, mut high) = (written(a), written(b));
                low.push(0xff);
                high.push(0);
                assert!(low < high, "{a:?} and {b:?}, with more behind them");
            }
            assert_eq!(a == b, a.hash64() == b.hash64(), "{a:?} and {b:?}");
        }
    }
}

fn rng() -> fastrand::Rng {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn text(rng: &mut fastrand::Rng) -> String {
    let alphabet = ['\0', '\u{1}', 'a', 'b', 'ÿ', '漢', '\u{10ffff}'];
    (0..rng.usize(..6)).map(|_| alphabet[rng.usize(..alphabet.len())]).collect()
}

#[test]
fn bytes_are_ordered_as_keys_are_and_read_back() {
    let rng = &mut rng();
    macro_rules! ints {
        ($($int:ident)*) => {$(
            let mut keys = vec![$int::MIN, $int::MIN + 1, 0, 1, $int::MAX - 1, $int::MAX];
            keys.extend((0..50).map(|_| rng.$int(..)));
            check(&keys);
        )*};
    }
    ints!(u8 i8 u16 i16 u32 i32 u64 i64 u128 i128);
    check(&[false, true]);
    check(&['\0', 'a', 'ÿ', '漢', char::MAX]);
    let mut texts: Vec<String> = (0..100).map(|_| text(rng)).collect();
    check(&texts);
    let bytes = |rng: &mut fastrand::Rng| -> Vec<u8> {
        (0..rng.usize(..5)).map(|_| [0, 1, 0xfe, 0xff][rng.usize(..4)]).collect()
    };
    check(&(0..100).map(|_| bytes(rng)).collect::<Vec<_>>());
    check(&[[0_u8; 4], [1; 4], [0xff; 4], [0, 0, 0, 1]]);
    texts.truncate(12);
    check(&texts.iter().cloned().map(Some).chain([None]).collect::<Vec<_>>());
    check(&[None, Some(None), Some(Some(0_u8)), Some(Some(1))]);
    let pairs: Vec<_> = texts.iter().map(|t| (t.clone(), rng.i8(-2..2), text(rng))).collect();
    check(&pairs);
    check(&[(1_u8, 2_u8, 3_i64, true, 'c', "x".to_owned()), (1, 2, 3, true, 'd', String::new())]);
}

#[test]
fn what_is_no_key_is_refused() {
    assert!(bool::read(&mut &[2][..]).is_err());
    assert!(char::read(&mut &[0, 0, 0xd8, 0][..]).is_err());
    assert!(Option::<u8>::read(&mut &[7, 0][..]).is_err());
    assert!(String::read(&mut &[0xff, 0, 0][..]).is_err(), "not UTF-8");
    assert!(String::read(&mut &[0, 7][..]).is_err(), "a bare zero");
}

#[test]
fn concatenated_keys_parse() {
    let rng = &mut rng();
    let keys: Vec<(String, u32, Option<Vec<u8>>)> =
        (0..200).map(|i| (text(rng), i, rng.bool().then(|| vec![0; rng.usize(..3)]))).collect();
    let mut bytes = Vec::new();
    keys.iter().for_each(|k| k.write(&mut bytes));
    let mut rest = bytes.as_slice();
    for key in &keys {
        assert_eq!(Key::read(&mut rest).as_ref(), Ok(key));
    }
    assert!(rest.is_empty());
}

#[test]
fn hashes_spread_over_groups_and_tags() {
    // Consecutive integers, the hardest common case: no group, tag or bucket
    // of 128 may have more than 1.35 of its share (over 7 sigma).
    for shift in [0, 32, 57] {
        let mut counts = [0_u32; 128];
        for i in 0..128_u64 * 1024 {
            counts[(i.hash64() >> shift) as usize & 127] += 1;
        }
        assert!(counts.iter().all(|n| (665..1383).contains(n)), "bits from {shift}: {counts:?}");
    }
}

#[test]
fn golden_values_never_change() {
    assert_eq!(HASH_VERSION, 1);
    fn golden<K: Key>(key: K, bytes: &[u8], hash: u64) {
        let mut out = Vec::new();
        key.write(&mut out);
        assert_eq!((out.as_slice(), key.hash64()), (bytes, hash), "{:#x}", key.hash64());
    }
    golden(0_u64, &[0, 0, 0, 0, 0, 0, 0, 0], 0xc9d8_74cc_191a_4607);
    golden(1_u64, &[0, 0, 0, 0, 0, 0, 0, 1], 0xf2f3_7276_3aa8_71a8);
    golden(7_u8, &[7], 0x4c9d_70e3_0424_6e0a);
    golden(-1_i8, &[127], 0x8e1a_4ac9_10ce_4b02);
    golden(-1_i64, &[127, 255, 255, 255, 255, 255, 255, 255], 0x8e1a_4ac9_10ce_4b02);
    golden(1_u128, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 0x2848_fb50_ed78_19fa);
    golden(
        -1_i128,
        &[127, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        0xe36e_8a84_0eb5_747b,
    );
    golden(true, &[1], 0xf2f3_7276_3aa8_71a8);
    golden('ß', &[0, 0, 0, 223], 0xbb14_1b6f_2999_735b);
    golden((), &[], 0xc9d8_74cc_191a_4607);
    golden(String::new(), &[0, 0], 0xbcc7_13b0_da11_2bae);
    golden(
        "millrace".to_owned(),
        &[109, 105, 108, 108, 114, 97, 99, 101, 0, 0],
        0xc757_bd6d_a65f_e88f,
    );
    golden("a\0b".to_owned(), &[97, 0, 255, 98, 0, 0], 0xddca_e389_2a81_c5a9);
    golden(vec![0_u8, 255], &[0, 255, 255, 0, 0], 0xdb8c_1058_2e14_4b13);
    golden([1_u8, 2, 3], &[1, 2, 3], 0xd155_59c0_f4cd_e8c6);
    golden(None::<u32>, &[0], 0xfbe9_02aa_d444_a5fb);
    golden(Some(5_u32), &[1, 0, 0, 0, 5], 0xd2b1_44df_cf4e_6bd8);
    golden((1_u32, 2_u32), &[0, 0, 0, 1, 0, 0, 0, 2], 0xdbef_b521_37b2_b3ba);
    golden(("JFK".to_owned(), -5_i16), &[74, 70, 75, 0, 0, 127, 251], 0xafa1_b552_395a_288a);
}

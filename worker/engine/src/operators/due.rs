//! When a key is to be woken by each of the two clocks, as it stands beside a row in the tier.

use crate::data::{Res, Ts};

pub(crate) fn write(times: [Option<Ts>; 2], out: &mut Vec<u8>) {
    for time in times {
        out.push(u8::from(time.is_some()));
        out.extend_from_slice(&time.unwrap_or(0).to_le_bytes());
    }
}

pub(crate) fn read(bytes: &[u8]) -> Res<[Option<Ts>; 2]> {
    let ([event, processing], []) = bytes.as_chunks::<9>() else {
        return Err("not the two times at which a key is to be woken".into());
    };
    let time = |[some, at @ ..]: &[u8; 9]| (*some != 0).then(|| Ts::from_le_bytes(*at));
    Ok([time(event), time(processing)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for times in [[None, None], [Some(3), None], [Some(Ts::MIN), Some(Ts::MAX)]] {
            let mut bytes = Vec::new();
            write(times, &mut bytes);
            assert_eq!(read(&bytes).unwrap(), times);
            assert!(read(&bytes[1..]).is_err());
        }
    }
}

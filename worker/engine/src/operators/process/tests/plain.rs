use crate::api::plain::{AnyList, ListSnapshot, ListTag, Process, ProcessCx, RestoredLists};
use crate::api::tags::{AnyTag, OutputTag};
use crate::data::Res;
use crate::testing::Harness;

const DEALT: ListTag<u64> = ListTag::even("dealt");
const SHARED: ListTag<(u64, String)> = ListTag::union("shared");
const ODD: OutputTag<u64> = OutputTag::new("odd");

/// Holds rows back; a row 0 lets go of those, and tells what was restored.
#[derive(Clone, Default)]
struct Hold {
    held: Vec<u64>,
    shared: Vec<(u64, String)>,
}

impl Process<u64> for Hold {
    type Out = (u64, usize);

    fn side_outputs(&self) -> Vec<AnyTag> {
        vec![ODD.any()]
    }

    fn lists(&self) -> Vec<AnyList> {
        vec![DEALT.any(), SHARED.any()]
    }

    fn open(&mut self, restored: &RestoredLists<'_>) -> Res {
        self.held = restored.get(&DEALT)?;
        self.shared = restored.get(&SHARED)?;
        Ok(())
    }

    fn process(&mut self, row: u64, cx: &mut ProcessCx<'_, (u64, usize)>) -> Res {
        if row == 0 {
            for row in self.held.drain(..) {
                cx.emit((row, self.shared.len()));
            }
        } else {
            self.held.push(row);
            self.shared.push((row, row.to_string()));
            if row % 2 == 1 {
                cx.side(&ODD, row);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, lists: &mut ListSnapshot<'_>) -> Res {
        self.held.iter().try_for_each(|row| lists.add(&DEALT, row))?;
        self.shared.iter().try_for_each(|row| lists.add(&SHARED, row))
    }
}

#[test]
fn lists_are_dealt_out_or_given_to_all() {
    for parallelism in 1..=4u16 {
        let (mut harness, (input, out, odd)) = Harness::at_parallelism(2, |t| {
            let (input, rows) = t.input::<u64>("rows");
            let held = rows.process("hold", Hold::default());
            let odd = t.output(held.side_output(&ODD));
            (input, t.output(held), odd)
        })
        .unwrap();
        (1..=20).for_each(|row| {
            input.push(0, row);
        });
        let snapshot = harness.snapshot().unwrap();
        let mut got = odd.take();
        got.sort();
        assert_eq!(got, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
        harness.restore(&snapshot, parallelism).unwrap();
        // One to each subtask.
        (0..parallelism).for_each(|_| {
            input.push(0, 0);
        });
        harness.run().unwrap();
        let mut got = out.take();
        got.sort();
        let expected: Vec<(u64, usize)> = (1..=20).map(|row| (row, 20)).collect();
        assert_eq!(got, expected);
    }
}

use super::*;
use millrace_engine::connector::{Committed, Committer, Prepared, Writer};
use millrace_engine::data::Rows;
use millrace_protocol::ids::{Attempt, Subtask};
use std::fs;

type Row = (u32, &'static str);

fn cx(attempt: u64) -> SinkCx {
    SinkCx {
        job: "job/1".into(),
        uid: "out".into(),
        attempt: Attempt(attempt),
        subtask: Subtask(3),
    }
}

fn committer(sink: &FileSink<Row, Csv>) -> FileCommitter {
    Sink::<Row>::committer(sink, &"job/1".into(), &"out".into()).unwrap()
}

/// Writes rows, each batch followed by a barrier; the last one as `last` says.
fn write(sink: &FileSink<Row, Csv>, batches: &[&[Row]], last: bool) -> Vec<Prepared<FileCommit>> {
    let mut writer = sink.writer(cx(7)).unwrap();
    let barrier = |(i, rows): (usize, &&[Row])| {
        let mut batch = Rows::default();
        rows.iter().for_each(|row| batch.push(0, *row));
        writer.write(&mut batch).unwrap();
        writer.prepare(last && i + 1 == batches.len()).unwrap()().unwrap()
    };
    batches.iter().enumerate().map(barrier).collect()
}

#[test]
fn a_part_stays_open_over_barriers_and_is_restored_with_the_length_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::new(dir.path(), Csv::new().no_header());
    let prepared = write(&sink, &[&[(1, "a")], &[(2, "b")], &[], &[(3, "c")]], true);
    assert!(prepared[..3].iter().all(|p| p.commit.is_empty() && p.open.len() == 1));
    let lengths: Vec<u64> = prepared[..3].iter().map(|p| p.open[0].len).collect();
    assert_eq!(lengths, [4, 8, 8]);
    assert_eq!((prepared[3].commit.len(), prepared[3].open.len()), (1, 0));

    // As if restored from the second checkpoint, twice.
    let open = &prepared[1].open[0];
    assert_eq!(open.target, "out-00003-00000007-00000000-job%2f1.csv");
    let mut committer = committer(&sink);
    assert_eq!(committer.commit(open).unwrap(), Committed::Done);
    assert_eq!(committer.commit(open).unwrap(), Committed::Before);
    committer.abort_others(Attempt(8), &[]).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(&open.target)).unwrap(), "1,a\n2,b\n");
    assert_eq!(fs::read_dir(committer_stage(dir.path())).unwrap().count(), 0);

    // The later checkpoint would say more than was committed: a loss, and nothing changes.
    let answer = committer.commit(&prepared[3].commit[0]).unwrap();
    assert!(matches!(answer, Committed::Lost(why) if why.contains("exists with 8 bytes where 12")));
    assert_eq!(fs::read_to_string(dir.path().join(&open.target)).unwrap(), "1,a\n2,b\n");
}

fn committer_stage(dir: &Path) -> PathBuf {
    dir.join(".millrace/job%2f1/out")
}

#[test]
fn a_part_that_is_gone_or_short_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::csv(dir.path());
    let prepared = write(&sink, &[&[(1, "a")]], true);
    let commit = &prepared[0].commit[0];
    let staged = committer_stage(dir.path()).join(&commit.staged);
    let mut committer = committer(&sink);
    fs::write(&staged, "1").unwrap();
    assert!(
        matches!(committer.commit(commit).unwrap(), Committed::Lost(why) if why.contains("only 1 bytes"))
    );
    fs::remove_file(&staged).unwrap();
    assert!(
        matches!(committer.commit(commit).unwrap(), Committed::Lost(why) if why.contains("is gone"))
    );
}

#[test]
fn leftovers_of_other_attempts_go_and_those_of_the_checkpoint_stay() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::csv(dir.path());
    let prepared = write(&sink, &[&[(1, "a")]], true);
    let mut other = sink.writer(cx(6)).unwrap();
    let mut batch = Rows::default();
    batch.push(0, (1, "a"));
    other.write(&mut batch).unwrap();
    let mut committer = committer(&sink);
    assert_eq!(fs::read_dir(committer_stage(dir.path())).unwrap().count(), 2);
    committer.abort_others(Attempt(8), &prepared[0].commit).unwrap();
    assert_eq!(fs::read_dir(committer_stage(dir.path())).unwrap().count(), 1);
    assert_eq!(committer.commit(&prepared[0].commit[0]).unwrap(), Committed::Done);
}

#[test]
fn a_crash_between_link_and_unlink_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::csv(dir.path());
    let commit = write(&sink, &[&[(1, "a")]], true).remove(0).commit.remove(0);
    let staged = committer_stage(dir.path()).join(&commit.staged);
    fs::hard_link(&staged, dir.path().join(&commit.target)).unwrap();
    assert_eq!(committer(&sink).commit(&commit).unwrap(), Committed::Before);
    assert!(!staged.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_the_users_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let sink = FileSink::<Row, _>::csv(&file);
    let e = sink.writer(cx(1)).err().unwrap();
    assert!(e.is::<UserError>());
    assert!(e.to_string().starts_with("cannot write to output directory `"), "{e}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn an_unknown_url_is_refused_and_not_taken_for_a_directory() {
    let e = FileSink::<Row, _>::csv("gs://bucket/out").writer(cx(1)).err().unwrap();
    assert!(e.is::<UserError>() && e.to_string().contains("or s3://bucket/prefix"), "{e}");
    assert!(!Path::new("gs:").exists());
}

#[test]
fn partitions_lead_nowhere_but_below_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["..", "a/../b", "/etc", "a//b", "a/", ".millrace", "a/.b"] {
        let sink = FileSink::csv(dir.path()).partition_by(move |_: &Row, to| to.push_str(path));
        let mut batch = Rows::default();
        batch.push(0, (1, "a"));
        let e = sink.writer(cx(1)).unwrap().write(&mut batch).unwrap_err();
        assert!(e.is::<UserError>(), "{path}");
    }
}

#[test]
fn names_order_the_parts_of_a_subtask_as_they_were_written() {
    let mut names = Vec::new();
    for attempt in [1, 2, 9, 10, 1000] {
        names.extend([0, 5, 10, 200].map(|n| names::part(&cx(attempt), "j", "", n, ".csv").target));
    }
    assert!(names.is_sorted());
}

#[test]
fn what_was_written_before_the_output_moved_is_committed_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let commit = write(&FileSink::csv(&old), &[&[(1, "a")]], true).remove(0).commit.remove(0);
    let leftover = write(&FileSink::csv(&old), &[], false);
    assert!(leftover.is_empty());
    fs::write(committer_stage(&old).join("out-00003-00000006-00000000-x.csv"), "1").unwrap();
    let mut committer = committer(&FileSink::csv(&new));
    committer.abort_others(Attempt(8), std::slice::from_ref(&commit)).unwrap();
    assert_eq!(fs::read_dir(committer_stage(&old)).unwrap().count(), 1, "a leftover stayed");
    assert_eq!(committer.commit(&commit).unwrap(), Committed::Done);
    assert_eq!(committer.commit(&commit).unwrap(), Committed::Before);
    assert!(old.join(&commit.target).exists() && !new.join(&commit.target).exists());
}

#[test]
fn output_whose_directory_was_renamed_is_committed_under_the_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let commit = write(&FileSink::csv(&old), &[&[(1, "a")]], true).remove(0).commit.remove(0);
    fs::rename(&old, &new).unwrap();
    let mut committer = committer(&FileSink::csv(&new));
    committer.abort_others(Attempt(8), std::slice::from_ref(&commit)).unwrap();
    assert_eq!(committer.commit(&commit).unwrap(), Committed::Done);
    assert!(new.join(&commit.target).exists() && !old.exists());
}

#[test]
fn output_that_was_left_and_is_gone_is_a_loss_in_its_old_place() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let commit = write(&FileSink::csv(&old), &[&[(1, "a")]], true).remove(0).commit.remove(0);
    fs::remove_dir_all(&old).unwrap();
    let answer = committer(&FileSink::csv(&new)).commit(&commit).unwrap();
    let place = old.to_str().unwrap();
    assert!(
        matches!(answer, Committed::Lost(why) if why.contains("is gone") && why.contains(place))
    );
}

#[test]
fn output_that_was_left_where_nothing_can_be_done_any_more_is_an_error_that_names_both_places() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let commit = write(&FileSink::csv(&old), &[&[(1, "a")]], true).remove(0).commit.remove(0);
    fs::remove_dir_all(&old).unwrap();
    fs::write(&old, "a file now").unwrap();
    let mut committer = committer(&FileSink::csv(&new));
    let keep = std::slice::from_ref(&commit);
    let errors = [
        committer.abort_others(Attempt(8), keep).unwrap_err(),
        committer.commit(&commit).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is::<UserError>(), "tried again for ever: {error}");
        let error = error.to_string();
        let places = [&old, &new].map(|place| place.to_str().unwrap());
        assert!(places.iter().all(|place| error.contains(place)), "{error}");
    }
    assert_eq!(fs::read_to_string(&old).unwrap(), "a file now");
}

#[test]
fn what_may_pass_by_itself_is_not_the_users() {
    let of = |kind: io::ErrorKind| {
        let path = PathBuf::from("/out");
        let directory = Error::Directory { path: path.clone(), source: kind.into() };
        let left = Error::write(&path, kind.into()).left("/old", &path);
        [directory.is_users(), left.is_users(), Error::write(&path, kind.into()).is_users()]
    };
    assert_eq!(of(io::ErrorKind::StorageFull), [false, false, false]);
    assert_eq!(of(io::ErrorKind::TimedOut), [false, false, false]);
    assert_eq!(of(io::ErrorKind::ReadOnlyFilesystem), [true, true, false]);
    assert_eq!(of(io::ErrorKind::PermissionDenied), [true, true, false]);
    // Unknown ones: nothing works there from the start, or it did until now.
    assert_eq!(of(io::ErrorKind::Other), [true, false, false]);
}

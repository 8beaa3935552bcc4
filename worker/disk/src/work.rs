//! What threads do beside the slots: new runs of what is young, and one run of several.

use crate::order::{Entry, Source, merge};
use crate::place::Place;
use crate::run::{Run, RunWriter};
use crate::young::Young;
use millrace_engine::data::{Fail, Res, Ts};
use millrace_engine::state::tier::timed;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

/// What need not be kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dead {
    /// All below this key.
    pub below: Vec<u8>,
    /// Values whose time is not after this. None: values have no times.
    pub expired: Option<Ts>,
}

/// What a run is made of.
pub(crate) enum What {
    Young(Arc<Young>),
    /// The newest first.
    Runs(Vec<Arc<Run>>),
}

/// A run to be made.
struct Job {
    what: What,
    dead: Dead,
    /// There is nothing older: what is gone needs no mark.
    oldest: bool,
    answer: Sender<Res<Option<Run>>>,
}

/// A run that was ordered; `None` in the end if nothing is left of it.
pub(crate) struct Made(Receiver<Res<Option<Run>>>);

impl Made {
    /// The run, if it is there by now, or when it is.
    pub fn take(&self, wait: bool) -> Res<Option<Option<Run>>> {
        let made = match wait {
            true => self.0.recv().map_err(|_| TryRecvError::Disconnected),
            false => self.0.try_recv(),
        };
        match made {
            Ok(made) => made.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }
}

/// A thread that makes runs, one after the other. It ends when it is dropped.
pub(crate) struct Worker {
    jobs: Sender<Job>,
    over: Arc<AtomicBool>,
}

impl Worker {
    pub fn start(name: &str, place: &Arc<Place>) -> Res<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (over, place) = (Arc::new(AtomicBool::new(false)), Arc::clone(place));
        let stop = Arc::clone(&over);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for Job { what, dead, oldest, answer } in todo {
                // Whoever asked may be gone.
                let _ = answer.send(make(&what, &dead, oldest, &place, &stop));
            }
        })?;
        Ok(Self { jobs, over })
    }

    /// Has a run made; the answer comes when it is there.
    pub fn make(&self, what: What, dead: Dead, oldest: bool) -> Res<Made> {
        let (answer, made) = mpsc::channel();
        let job = Job { what, dead, oldest, answer };
        self.jobs.send(job).map_err(|_| gone())?;
        Ok(Made(made))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn gone() -> Fail {
    "the thread that writes local state has ended".into()
}

fn make(
    what: &What,
    dead: &Dead,
    oldest: bool,
    place: &Arc<Place>,
    over: &AtomicBool,
) -> Res<Option<Run>> {
    let (count, sources) = match what {
        What::Young(young) => (young.len() as u64, vec![Box::new(young.all()) as Box<dyn Source>]),
        What::Runs(runs) => {
            let count = runs.iter().map(|run| run.count()).sum();
            let open = |run: &Arc<Run>| Ok(Box::new(run.all()?) as Box<dyn Source>);
            (count, runs.iter().map(open).collect::<Res<Vec<_>>>()?)
        }
    };
    let mut run = RunWriter::new(place, usize::try_from(count)?, oldest)?;
    merge(sources, |Entry { key, value }| {
        if key < dead.below.as_slice() {
            return Ok(true);
        }
        let late = |value: &&[u8]| {
            dead.expired.is_some_and(|now| timed(value).is_some_and(|(time, _)| time <= now))
        };
        // Below a value that expired there may be an older one.
        let value = value.filter(|value| !late(value));
        if value.is_some() || !oldest {
            run.push(key, value)?;
        }
        // Then nobody is there any more to get what was made.
        Ok(!over.load(Ordering::Relaxed))
    })?;
    run.finish()
}

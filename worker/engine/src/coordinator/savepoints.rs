//! Savepoints that somebody wants: looked for, taken, or made of the latest checkpoint.

use super::checkpoint::Wanted;
use super::effect::Effect;
use super::export::Exported;
use super::state::For;
use super::status::{SavepointState, SavepointStatus};
use super::step::Coordinator;
use millrace_protocol::head::Pin;

/// Most savepoints under way at once: the head record has a bounded size.
const MAX_SAVEPOINTS: usize = 50;

impl Coordinator {
    /// Wants these, and of those that were listed before no others, unless they are begun.
    pub(super) fn want_savepoints(&mut self, wanted: Vec<(String, String)>) {
        let stays = |known: &Wanted| !known.listed || wanted.iter().any(|(id, _)| *id == known.id);
        let forgotten: Vec<Wanted> = self
            .savepoints
            .extract_if(.., |known| !stays(known))
            .chain(self.sought.extract_if(.., |known| !stays(known)))
            .collect();
        for Wanted { id, .. } in forgotten {
            self.savepoint_status.remove(&id);
        }
        for (id, target) in wanted {
            self.want_savepoint(Wanted { id, target, listed: true });
        }
    }

    pub(super) fn want_savepoint(&mut self, wanted: Wanted) {
        if let Some(SavepointStatus { state: SavepointState::Complete(place), .. }) =
            self.savepoint_status.get(&wanted.id)
        {
            let place = place.clone();
            return self.savepoint_ended(wanted.id, Ok(place));
        }
        let id = &wanted.id;
        let pinned = self.head.iter().flat_map(|head| &head.pins).any(|pin| pin.savepoint == *id);
        let mut waiting = self.savepoints.iter_mut().chain(&mut self.sought);
        let asked = waiting.find(|known| known.id == *id);
        let asked = asked.map(|known| known.listed &= wanted.listed).is_some();
        let taken = self.checkpoint.as_ref().and_then(|c| c.savepoint.as_ref());
        let appended = match self.append.as_ref().map(|appending| &appending.purpose) {
            Some(For::Complete(checkpoint, _)) => checkpoint.savepoint.as_ref(),
            _ => None,
        };
        if pinned || asked || taken.or(appended).is_some_and(|known| known.id == *id) {
            return;
        }
        let pins = self.head.as_ref().map_or(0, |head| head.pins.len());
        if pins + self.savepoints.len() + self.sought.len() >= MAX_SAVEPOINTS {
            let why = format!("{MAX_SAVEPOINTS} savepoints are under way already");
            return self.savepoint_ended(wanted.id, Err(why));
        }
        if let Err(error) = millrace_protocol::objects::savepoint_manifest(id) {
            return self.savepoint_ended(wanted.id, Err(error.to_string()));
        }
        self.savepoint_is(&wanted.id, SavepointState::Waiting);
        self.sought.push(wanted.clone());
        self.seek(wanted);
    }

    /// Whose a savepoint is can be told by who knows whose the home is: an owner.
    fn seek(&mut self, wanted: Wanted) {
        if self.won {
            let Wanted { id, target, .. } = wanted;
            self.out.push(Effect::FindSavepoint { id, target });
        }
    }

    pub(super) fn seek_savepoints(&mut self) {
        for wanted in self.sought.clone() {
            self.seek(wanted);
        }
    }

    /// Whether a savepoint is there already; if not, it is taken.
    pub(super) fn savepoint_found(&mut self, id: &str, result: Result<Option<Exported>, String>) {
        let Some(at) = self.sought.iter().position(|wanted| wanted.id == id) else { return };
        let wanted = self.sought.remove(at);
        match result {
            Ok(None) => self.savepoints.push(wanted),
            Ok(Some(there)) => {
                self.savepoint_stands(id, there);
                let place = crate::store::opener::join(&wanted.target, id);
                self.savepoint_ended(wanted.id, Ok(place));
            }
            Err(why) => self.savepoint_ended(wanted.id, Err(why)),
        }
    }

    /// What is there says which checkpoint it is made of.
    fn savepoint_stands(&mut self, id: &str, there: Exported) {
        if let Some(status) = self.savepoint_status.get_mut(id) {
            (status.at, status.bytes) = (Some(there.at), there.bytes);
        }
    }

    /// An export ended: its pin may go.
    pub(super) fn savepoint_exported(
        &mut self,
        id: String,
        target: &str,
        result: Result<Exported, String>,
    ) {
        if let Ok(there) = &result {
            self.savepoint_stands(&id, *there);
        }
        let result = result.map(|_| crate::store::opener::join(target, &id));
        self.exported.push((id, result));
    }

    /// None that is not begun will be.
    pub(super) fn give_up_savepoints(&mut self, why: &str) {
        let waiting = std::mem::take(&mut self.savepoints);
        for wanted in waiting.into_iter().chain(std::mem::take(&mut self.sought)) {
            self.savepoint_ended(wanted.id, Err(why.to_owned()));
        }
    }

    /// Makes savepoints of the latest checkpoint, for no attempt will take another;
    /// answers whether there was a move.
    pub(super) fn savepoints_of_latest(&mut self) -> bool {
        if let Some((id, _)) = self.exported.first() {
            let id = id.clone();
            self.append_unpin(id);
            return true;
        }
        let latest = self.head.as_ref().and_then(|head| head.latest.clone());
        let Some(at) = latest.filter(|_| self.won) else {
            self.give_up_savepoints(
                "the job does not run, and has no checkpoint that could be exported",
            );
            return false;
        };
        if self.savepoints.is_empty() {
            return false;
        }
        let cause = self.head.as_ref().and_then(|head| head.cause.clone());
        let mut record = self.next_record();
        record.cause = cause;
        let pins = std::mem::take(&mut self.savepoints).into_iter().map(|wanted| {
            let Wanted { id: savepoint, target, .. } = wanted;
            Pin { savepoint, at: at.clone(), target }
        });
        record.pins.extend(pins);
        self.append(For::Pin, record);
        true
    }

    pub(super) fn savepoint_ended(&mut self, id: String, result: Result<String, String>) {
        let state = match &result {
            Ok(place) => SavepointState::Complete(place.clone()),
            Err(why) => SavepointState::Failed(why.clone()),
        };
        self.savepoint_is(&id, state);
        self.out.push(Effect::SavepointEnded { id, result });
    }

    pub(super) fn append_unpin(&mut self, id: String) {
        let cause = self.head.as_ref().and_then(|head| head.cause.clone());
        let mut record = self.next_record();
        record.cause = cause;
        record.pins.retain(|pin| pin.savepoint != id);
        self.append(For::Unpin(id), record);
    }
}

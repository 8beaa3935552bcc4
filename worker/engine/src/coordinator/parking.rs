//! Whose turn it is, and by which configuration: another's silence, and the accepted
//! configuration that a coordinator resumes.

use super::config::{ClaimRule, RestoreChoice};
use super::effect::{Effect, Outcome, StoreCall};
use super::event::StoreAnswer;
use super::state::{Purpose, Silence, Stage};
use super::step::Coordinator;
use super::workers::Proposal;
use millrace_protocol::head::{ConfigRef, Phase, Version};
use std::time::Duration;

impl Coordinator {
    /// Another process owns the job: this one stays, and looks for its silence.
    pub(super) fn park(&mut self) {
        self.parked = true;
        self.won = false;
        self.hold = None;
        self.stop = self.stop.filter(|_| !self.config.stays);
        self.give_up_savepoints("another process owns the job");
        self.append = None;
        self.exporting.clear();
        self.exported.clear();
        self.truncating = None;
        self.watching = false;
        if self.take_over.is_some() {
            return self.find_home();
        }
        self.read_chain();
    }

    /// How long another must have been silent before a claim.
    pub(super) fn silence_needed(&self) -> Option<Duration> {
        let head = self.head.as_ref()?;
        // Whoever recorded an end appends nothing any more.
        if !matches!(head.phase, Phase::Running | Phase::Stopping(_)) {
            return None;
        }
        match self.config.claim {
            ClaimRule::AfterSilence(time) => Some(time),
            // The confirmation was of the start. It has lapsed.
            ClaimRule::Confirmed if self.parked => {
                Some(self.config.keepalive.map_or(Duration::MAX, |every| every * 3))
            }
            ClaimRule::Confirmed => None,
        }
    }

    pub(super) fn wait_for_silence(&mut self, time: Duration) {
        self.parked = true;
        let until = self.now.saturating_add(time);
        let look_at = Some(self.now.saturating_add(time / 4));
        self.stage = Stage::Silence(Silence { until, look_at });
    }

    /// One look at whether the owner has appended; answers whether there was a move.
    pub(super) fn look_for_silence(&mut self) -> bool {
        let (Some(chain), Some(head)) = (&self.chain, &self.head) else { return false };
        let Stage::Silence(silence) = &mut self.stage else { return false };
        if silence.look_at.is_none_or(|at| self.now < at) {
            return false;
        }
        silence.look_at = None;
        let next = head.version.next();
        let key = chain.home.head(next);
        self.call(Purpose::Silence(next), StoreCall::Get { key });
        true
    }

    pub(super) fn looked(
        &mut self,
        silence: Silence,
        version: Version,
        call: StoreCall,
        tries: u32,
        answer: &StoreAnswer,
    ) {
        match answer {
            StoreAnswer::Got(None) if self.now >= silence.until => self.go_on_from_head(),
            StoreAnswer::Got(None) => {
                let pause = (silence.until - self.now) / 2;
                let look_at = Some(self.now + pause.max(Duration::from_millis(100)));
                self.stage = Stage::Silence(Silence { look_at, ..silence });
            }
            StoreAnswer::Got(Some(_)) => self.read_chain(),
            _ => self.again(Purpose::Silence(version), call, tries),
        }
    }

    /// Where state comes from, by the configuration.
    pub(super) fn from(&self) -> RestoreChoice {
        if self.is_local() {
            return self.config.from.clone();
        }
        let Some((nonce, path)) = &self.config.restore else { return RestoreChoice::Latest };
        match &self.head {
            Some(head) if *nonce <= head.restore_nonce => RestoreChoice::Latest,
            _ => path.clone().map_or(RestoreChoice::None, RestoreChoice::Path),
        }
    }

    /// Whether this process's configuration is newer than the accepted one. The way back
    /// from an upgrade is an edit of the same generation, to another program.
    pub(super) fn is_edited(&self) -> bool {
        let own = &self.config.config;
        !self.config.outdated
            && self.head.as_ref().is_none_or(|head| {
                own.generation > head.config.generation
                    || own.generation == head.config.generation
                        && own.program != head.config.program
                    || self.overrides && *own != head.config
            })
    }

    /// The accepted configuration, if it must be read: it is what counts, unless this
    /// process's own is newer.
    pub(super) fn config_to_read(&mut self) -> Option<ConfigRef> {
        let own = self.config.config.generation;
        let newer = self.proposal.as_ref().is_some_and(|new| {
            new.overrides || new.config.generation > own || self.config.outdated
        });
        if let Some(proposal) = self.proposal.take_if(|_| newer) {
            self.adopt(*proposal);
        }
        let head = self.head.as_ref().filter(|_| !self.is_local()).map(|head| &head.config)?;
        (*head != self.config.config && !head.hash.is_empty() && !self.is_edited())
            .then(|| head.clone())
    }

    pub(super) fn get_config(&mut self, config: ConfigRef) {
        if config.program != self.config.config.program {
            let (accepted, own) = (config.generation, self.config.config.generation);
            let why = format!(
                "generation {accepted}, of another program, was accepted after this process's \
                 generation {own}: start the program that it names"
            );
            return if self.config.outdated { self.await_turn(why) } else { self.refuse(why) };
        }
        let Some(chain) = &self.chain else { return };
        match chain.home.config(&config.hash) {
            Ok(key) => {
                self.stage = Stage::Configuring;
                self.call(Purpose::GetConfig(config), StoreCall::Get { key });
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    /// What this process found is for others: it is replaced, or told its part.
    pub(super) fn await_turn(&mut self, why: String) {
        self.rest(Outcome::Refused(why));
    }

    pub(super) fn config_got(
        &mut self,
        config: ConfigRef,
        call: StoreCall,
        tries: u32,
        answer: StoreAnswer,
    ) {
        match answer {
            StoreAnswer::Got(Some(body)) => self.out.push(Effect::ReadConfig { config, body }),
            StoreAnswer::Got(None) => {
                let (generation, hash) = (config.generation, config.hash);
                self.refuse(format!(
                    "the accepted configuration {hash} of generation {generation} is missing in \
                     the store: propose a newer one"
                ));
            }
            _ => self.again(Purpose::GetConfig(config), call, tries),
        }
    }

    pub(super) fn config_read(
        &mut self,
        config: &ConfigRef,
        result: Result<Box<Proposal>, String>,
    ) {
        let accepted = self.head.as_ref().map(|head| &head.config);
        if !matches!(self.stage, Stage::Configuring) || accepted != Some(config) {
            return;
        }
        match result {
            Ok(proposal) => {
                self.stored.insert(config.hash.clone());
                self.adopt(Proposal { config: config.clone(), overrides: false, ..*proposal });
                self.load_manifests();
            }
            Err(why) => self.refuse(format!("the accepted configuration is unreadable: {why}")),
        }
    }
}

//! Why a command could not do what was asked, and with which exit code it says so.

use crate::cli::{FAILED, USER_ERROR};
use millrace_engine::job::JobError;
use std::process::ExitCode;
use thiserror::Error;

/// Why a command could not do what was asked.
#[derive(Debug, Error)]
pub enum Trouble {
    /// The user must change something.
    #[error("{0}")]
    User(String),
    /// The user must change something about the place of the job's data.
    #[error("{0}")]
    Storage(String),
    /// The user must say what is to become of another job's state.
    #[error("{0}")]
    EarlierState(String),
    /// The place of the job's data holds nothing of a job that has run.
    #[error("{0}")]
    StateMissing(String),
    /// Another job has the place of the data, for ever.
    #[error("{0}")]
    TakenOver(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

impl Trouble {
    /// The user must change something.
    pub fn user(why: impl ToString) -> Self {
        Self::User(why.to_string())
    }

    /// It failed.
    pub fn failed(why: impl ToString) -> Self {
        Self::Failed(why.to_string())
    }

    /// Says it, and answers with the exit code.
    pub fn exit(&self) -> ExitCode {
        eprintln!("error: {self}");
        #[cfg(feature = "cluster")]
        crate::cli::cluster::last_words::of_trouble(self);
        ExitCode::from(match self {
            Self::Failed(_) => FAILED,
            _ => USER_ERROR,
        })
    }
}

impl From<JobError> for Trouble {
    fn from(error: JobError) -> Self {
        match error {
            JobError::User(why) => Self::User(why),
            JobError::Storage(why) => Self::Storage(why),
            JobError::EarlierState(why) => Self::EarlierState(why),
            JobError::StateMissing(why) => Self::StateMissing(why),
            JobError::Failed(why) => Self::Failed(why),
        }
    }
}

//! Values of flags that cannot be read. A role tells them together with everything else that is wrong with its settings, so that
//! an operator mends them in one round; every other command tells them at once.

use std::ffi::OsStr;
use std::sync::{Mutex, PoisonError};

use clap::builder::TypedValueParser;
use clap::{Arg, Command};

/// What was wrong with the values of this process's command line and its variables.
static FAULTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Reads a value as another parser does, and goes on with a stand-in where that refuses it.
#[derive(Clone)]
pub(crate) struct Noted<P: TypedValueParser> {
    parser: P,
    stand_in: P::Value,
}

/// Has `parser` note what it refuses, instead of ending the process with it.
pub(crate) fn noted<P: TypedValueParser>(parser: P, stand_in: P::Value) -> Noted<P> {
    Noted { parser, stand_in }
}

impl<P: TypedValueParser<Value: Clone + Send + Sync + 'static>> TypedValueParser for Noted<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<P::Value, clap::Error> {
        let parsed = self.parser.parse_ref(command, arg, value);
        parsed.or_else(|error| {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            let fault = line.trim_start_matches("error: ").to_owned();
            let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
            if !faults.contains(&fault) {
                faults.push(fault);
            }
            Ok(self.stand_in.clone())
        })
    }
}

/// Takes what was noted.
pub(crate) fn take() -> Vec<String> {
    std::mem::take(&mut *FAULTS.lock().unwrap_or_else(PoisonError::into_inner))
}

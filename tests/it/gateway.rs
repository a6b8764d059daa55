//! The gateway over a real socket, on the adapters of the embedded mode, with toys for the image stages and a scribe for
//! the language worker.

mod access;
mod bad_input;
mod batches;
mod clients;
mod conversations;
mod corrections;
pub(crate) mod desk;
mod events;
mod openai;
pub(crate) mod scribe;
pub(crate) mod sse;
mod turns;

//! The gateway over a real socket, on the adapters of the embedded mode, with fake image stages and a fake
//! language worker.

mod access;
mod archive_holders;
mod archives;
mod bad_input;
mod batch_deaths;
mod batch_places;
mod batch_responses;
mod clients;
mod conversations;
mod corrections;
mod events;
pub(crate) mod fake_language_worker;
pub(crate) mod fixture;
mod limits;
pub(crate) mod models;
mod openai;
mod races;
mod request_batches;
mod request_files;
mod responses;
mod retention;
pub(crate) mod sse;
mod turns;

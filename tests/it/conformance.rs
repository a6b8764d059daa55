//! One suite a trait, run on every adapter: what is written in the traits' documentation holds for all of them.

mod conversations;
mod object_store;
mod queue;
mod state;

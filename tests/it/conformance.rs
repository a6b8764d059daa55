//! One suite a trait, run on every adapter: what is written in the traits' documentation holds for all of them.

mod conversations;
mod objects;
mod queue;
mod state;

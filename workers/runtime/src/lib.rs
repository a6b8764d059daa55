#![doc = include_str!("../README.md")]

pub mod objects;
pub mod queue;
pub mod stage;
pub mod state;

#![doc = include_str!("../README.md")]

pub mod durable;
pub mod folder_lock;
pub mod left_behind;

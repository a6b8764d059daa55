#![doc = include_str!("../README.md")]

pub mod benchmark;
pub mod draw;
pub mod embedded;
pub mod fake_stage;
pub mod faults;
pub mod fixtures;
pub mod golden;
pub mod install;
pub mod module_circles;
pub mod processes;
pub mod release;
pub mod report_pairs;
pub mod services;
pub mod stepping;
pub mod task_harness;
pub mod torch_file;

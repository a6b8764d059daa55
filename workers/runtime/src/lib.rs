#![doc = include_str!("../README.md")]

pub mod backends;
pub mod backoff;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod conversations;
pub mod cpu;
pub mod health;
pub mod http_server;
pub mod local_services;
pub mod metrics;
pub mod objects;
pub mod queue;
mod redis_connection;
pub mod runner;
pub mod shutdown;
pub mod stage;
mod start;
pub mod state;
pub mod telemetry;
pub mod trace;

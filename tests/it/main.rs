//! Integration tests of RaDialog: one binary, so that services start once and linking happens once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod adapters;
mod architecture;
mod batch;
mod browser;
mod bundle_adapters;
mod bundle_quantise;
mod bundle_store;
mod bundles;
mod chaos;
mod chat_processes;
mod chat_worker;
mod clinical;
mod conformance;
mod delivery;
mod distributed;
mod evaluation;
mod gateway;
mod gguf;
mod health;
mod images;
mod import;
mod kubernetes;
mod lifecycle;
mod metrics;
mod misconfigured;
mod operations;
mod parity;
mod plan;
mod prepare;
mod purge;
mod revisions;
mod stages;
mod training;
mod v2_bundle;
mod worker_groups;

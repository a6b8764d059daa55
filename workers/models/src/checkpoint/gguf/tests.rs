//! Files as candle writes them, and files that are wrong in every way.

mod bad_input;
mod llama;
mod tokenizer;
pub(crate) mod written;

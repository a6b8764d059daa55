//! What adapters cost that a batch needs beside each other: the same eight sequences through none, one and four of them.

use anyhow::{Context, Result};
use radialog_models::bundle::{ComponentConfigs, Geometry};
use radialog_models::language::cache::KvCache;
use radialog_models::language::{LoraAdapter, LoraConfig};
use radialog_tests::benchmark::random_weights;
use radialog_tests::benchmark::rows::{self, Figures, Peer, Row};

use super::{DType, PREFIX, STEPS, Watch, pass, random_model};

/// Sequences that are decoded together.
const SEQUENCES: usize = 8;
/// Adapters among them.
const ADAPTERS: [usize; 3] = [0, 1, 4];

/// Decodes a token of each batch by turns, and prints how many a second that makes. The adapters are as v1's published ones.
pub(super) fn measure(types: &str, layers: usize) -> Result<()> {
    let weights = random_weights(DType::F32);
    let published = ComponentConfigs::of(Geometry::Published).language.lora;
    let published = published.context("v1 has an adapter")?;
    // One that adds to no layer, which is none; then the others.
    let none = LoraConfig {
        target_modules: Vec::new(),
        ..published.clone()
    };
    let mut adapters = vec![LoraAdapter::new(none, weights.clone())];
    for _ in 0..ADAPTERS[ADAPTERS.len() - 1] {
        adapters.push(LoraAdapter::new(published.clone(), weights.clone()));
    }
    let model = random_model(types, layers, &adapters)?;
    let cache = |adapter: usize| -> Result<KvCache> {
        let adapter = model.adapter(adapter).context("it was loaded")?;
        Ok(model.cache_of(adapter, PREFIX + STEPS + 1)?)
    };
    let mut prefixes = (0..adapters.len()).map(cache).collect::<Result<Vec<_>>>()?;
    for prefix in &mut prefixes {
        pass(&model, &mut [prefix], PREFIX)?;
    }
    let mut batches = Vec::new();
    for count in ADAPTERS {
        let mut batch = Vec::new();
        for sequence in 0..SEQUENCES {
            // Those of one adapter stand together, as the engine has them.
            let adapter = match count {
                0 => 0,
                count => 1 + sequence * count / SEQUENCES,
            };
            let mut own = cache(adapter)?;
            own.copy_from(&prefixes[adapter], PREFIX)?;
            batch.push(own);
        }
        batches.push(batch);
    }
    let mut rates = vec![Vec::new(); ADAPTERS.len()];
    for step in 0..=STEPS {
        for (batch, rates) in batches.iter_mut().zip(&mut rates) {
            let watch = Watch::start();
            pass(&model, &mut batch.iter_mut().collect::<Vec<_>>(), 1)?;
            if step > 0 {
                rates.push(SEQUENCES as f64 / watch.seconds());
            }
        }
    }
    let mut lines = Vec::new();
    for (count, own) in ADAPTERS.into_iter().zip(&rates).skip(1) {
        let row = Row {
            work: format!("7B {types}, {layers} layers, decode-{SEQUENCES}, adapters: {count}"),
            unit: "tokens/s".into(),
            ours: Figures::of(own),
            peer: Some(Peer {
                name: "ours without one".into(),
                figures: Figures::of(&rates[0]),
            }),
            share: None,
        };
        row.note()?;
        lines.push((row, None));
    }
    println!("{}", rows::table(&lines));
    Ok(())
}

//! The readers of torch's files under mutation: whatever the bytes are, they give tensors or an error, without a panic and
//! without memory that the file does not have. A short run each time; `RADIALOG_FUZZ_SECONDS` makes it as long as one likes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use radialog_models::checkpoint::embeddings::StoredEmbeddings;
use radialog_models::checkpoint::{Checkpoint, StoredTensor, open_file};
use radialog_models::tokenizers::sentencepiece;
use radialog_tests::torch_file::{TorchFormat, TorchTensor, TorchType, torch_bytes};

/// Names the seconds of a longer run.
const VARIABLE: &str = "RADIALOG_FUZZ_SECONDS";

/// Mutations of a short run.
const ROUNDS: u64 = 3000;

/// Operations of a pickle, which mutations put in more often than chance would.
const OPERATIONS: &[u8] = b"(.012FGIJKLMNPQRSTUVXabcdeghijlopqrstu)]}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98";

/// SplitMix64 (Steele et al., 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn mutate(content: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(content.len());
        let byte = random.next() as u8;
        match random.below(7) {
            0 => content[at] = byte,
            1 => content[at] ^= 1 << (byte & 7),
            2 => content[at] = OPERATIONS[random.below(OPERATIONS.len())],
            3 => content.insert(at, OPERATIONS[random.below(OPERATIONS.len())]),
            4 => drop(content.remove(at)),
            5 => content.truncate(at),
            _ => {
                let end = (at + 1 + random.below(40)).min(content.len());
                let piece = content[at..end].to_vec();
                let to = random.below(content.len());
                content.splice(to..to, piece);
            }
        }
        if content.is_empty() {
            content.push(byte);
        }
    }
}

fn seeds() -> Result<Vec<Vec<u8>>> {
    let tensor = |name: &str, shape: &[usize], dtype| TorchTensor {
        name: name.into(),
        shape: shape.to_vec(),
        dtype,
    };
    let tensors = [
        tensor("a.weight", &[3, 2], TorchType::Float),
        tensor("a.bias", &[3], TorchType::Half),
        tensor("count", &[], TorchType::Long),
    ];
    // A dictionary of one numpy array, in protocol 4.
    let embeddings = b"\x80\x04\x95\xe9\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x02d1\x94\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02K\x03\x86\x94h\x05\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x18\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@\x00\x00\xc0@\x94t\x94bu.";
    Ok(vec![
        torch_bytes(TorchFormat::Zip, &tensors)?,
        torch_bytes(TorchFormat::Legacy, &tensors)?,
        embeddings.to_vec(),
    ])
}

#[test]
fn damaged_files_give_tensors_or_an_error_and_nothing_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weights.pth");
    let seconds = std::env::var(VARIABLE).ok();
    let seconds = seconds
        .map(|text| text.parse().context(VARIABLE))
        .transpose()?;
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seeds = seeds()?;
    let mut read = 0_u64;
    for round in 0.. {
        let more = match end {
            Some(end) => Instant::now() < end,
            None => round < ROUNDS,
        };
        if !more {
            break;
        }
        let mut random = Random(round);
        let mut content = seeds[random.below(seeds.len())].clone();
        mutate(&mut content, &mut random);
        std::fs::write(&path, &content)?;
        if let Ok(opened) = open_file(&path, &["model"]) {
            for tensor in opened.checkpoint.tensors() {
                read += u64::from(is_honest(&*opened.checkpoint, tensor, content.len()));
            }
        }
        if let Ok(stored) = StoredEmbeddings::open(&path) {
            for array in stored.arrays() {
                if let Ok(values) = stored.read(array) {
                    assert!(4 * values.len() <= content.len(), "round {round}");
                }
            }
        }
        drop(sentencepiece::to_json(&content));
    }
    // Otherwise the mutations leave nothing that is still a file, and the run shows nothing.
    assert!(read > 100, "{read} tensors were read");
    Ok(())
}

/// Whether a tensor is read, with no more bytes than its file has.
fn is_honest(checkpoint: &dyn Checkpoint, tensor: &StoredTensor, length: usize) -> bool {
    match checkpoint.read(tensor) {
        Ok(bytes) => {
            assert!(bytes.len() <= length);
            assert_eq!(Some(bytes.len()), tensor.size());
            true
        }
        Err(_) => false,
    }
}

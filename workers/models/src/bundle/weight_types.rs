//! The quantised types of a language model's matrices together, by one name: which type each matrix has.

use candle_core::quantized::GgmlDType;
use serde::Serialize;

/// The quantised types of a model's matrices together, as llama.cpp names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WeightTypes {
    /// Eight bits and a scale for 32 numbers: 8.5 bits a number.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Six bits and scales of scales: 6.6 bits a number.
    #[serde(rename = "q6_k")]
    Q6K,
    /// Four bits and scales of scales, six for the matrices that suffer most: 4.8 bits a number.
    #[serde(rename = "q4_k_m")]
    Q4KM,
    /// Four bits and a scale for 32 numbers, six for the output head: 4.5 bits a number.
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl WeightTypes {
    /// All of them, the most exact first.
    pub const ALL: [WeightTypes; 4] = [Self::Q8_0, Self::Q6K, Self::Q4KM, Self::Q4_0];

    /// The name of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q4KM => "q4_k_m",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The type of a matrix of a model of so many layers, as llama.cpp chooses it; a table that is the output head, too,
    /// counts as that. Rows that are no whole number of blocks of 256 get eight bits, those of none of 32 nothing.
    pub(super) fn of(
        self,
        name: &str,
        columns: usize,
        layers: usize,
        tied: bool,
    ) -> Option<GgmlDType> {
        let is_head = match tied {
            true => name == "model.embed_tokens.weight",
            false => name == "lm_head.weight",
        };
        let layer = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let finer = ["v_proj", "down_proj"]
            .iter()
            .any(|part| name.contains(part));
        // The first and the last eighth of the layers, and every third between them.
        let suffers = layer.is_some_and(|layer| {
            let eighth = layers / 8;
            layer < eighth || layer >= 7 * layers / 8 || (layer - eighth.min(layer)) % 3 == 2
        });
        let wanted = match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q4KM if is_head || finer && suffers => GgmlDType::Q6K,
            Self::Q4KM => GgmlDType::Q4K,
            Self::Q4_0 if is_head => GgmlDType::Q6K,
            Self::Q4_0 => GgmlDType::Q4_0,
        };
        [wanted, GgmlDType::Q8_0]
            .into_iter()
            .find(|dtype| columns.is_multiple_of(dtype.block_size()))
    }

    /// Whether most of these quantised matrices, by name, type and columns, are of the types that these would give them.
    pub(super) fn are_of<'a>(
        self,
        matrices: impl Iterator<Item = (&'a str, GgmlDType, usize)>,
        layers: usize,
        tied: bool,
    ) -> bool {
        let (mut same, mut all) = (0, 0);
        for (name, ggml, columns) in matrices {
            all += 1;
            same += usize::from(self.of(name, columns, layers, tied) == Some(ggml));
        }
        2 * same > all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_that_llama_cpp_chooses() {
        let of = |to: WeightTypes, name: &str| to.of(name, 4096, 32, false).unwrap();
        let value = |layer| format!("model.layers.{layer}.self_attn.v_proj.weight");
        let finer: Vec<usize> = (0..32)
            .filter(|layer| of(WeightTypes::Q4KM, &value(*layer)) == GgmlDType::Q6K)
            .collect();
        // The layers of a 7B file that llama.cpp quantised.
        let expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        assert_eq!(finer, expected);
        let query = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(of(WeightTypes::Q4KM, query), GgmlDType::Q4K);
        assert_eq!(of(WeightTypes::Q4KM, "lm_head.weight"), GgmlDType::Q6K);
        assert_eq!(of(WeightTypes::Q4_0, "lm_head.weight"), GgmlDType::Q6K);
        let table = "model.embed_tokens.weight";
        assert_eq!(of(WeightTypes::Q4_0, table), GgmlDType::Q4_0);
        assert_eq!(
            WeightTypes::Q4_0.of(table, 4096, 32, true),
            Some(GgmlDType::Q6K)
        );
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_eight_bits_or_stay() {
        let of = |columns| WeightTypes::Q4KM.of("lm_head.weight", columns, 2, false);
        assert_eq!(of(512), Some(GgmlDType::Q6K));
        assert_eq!(of(576), Some(GgmlDType::Q8_0));
        assert_eq!(of(40), None);
    }
}

//! A tokenizer beside the rows of its model's embedding: fine-tuned models have more rows than tokens, since they are filled up
//! to a round number, or a token more than rows, which is never given.

use super::super::TokenizerError;
use super::super::prompt::IMAGE;
use super::{LlamaTokenizer, TokenContent};

/// Rows that a model may have beyond its tokens: fewer than the largest round number that they are filled up to.
const MOST_SPARE: usize = 512;

impl LlamaTokenizer {
    /// The tokenizer for a model whose placeholder of images has this id: the first one after the rows of its embedding. Rows
    /// without a token are the empty text; tokens without a row, which no text becomes, are dropped.
    ///
    /// # Errors
    /// A tokenizer of another model: it gives ids that have no row, or there are 512 rows and more that it has no token for.
    pub fn for_image_id(mut self, image: u32) -> Result<Self, TokenizerError> {
        if self.image == image {
            return Ok(self);
        }
        let rows = image as usize;
        let tokens = self.contents.len() - 1;
        if self.image as usize != tokens || self.rows_needed() > rows || rows >= tokens + MOST_SPARE
        {
            return Err(TokenizerError::OtherModel {
                tokens: self.image,
                rows: image,
            });
        }
        self.contents.truncate(tokens.min(rows));
        self.contents
            .resize_with(rows, || TokenContent::Text(String::new()));
        self.contents.push(TokenContent::Special(IMAGE.to_owned()));
        self.specials
            .retain(|(_, id)| *id < image && *id != self.image);
        self.specials.push((IMAGE.to_owned(), image));
        self.image = image;
        Ok(self)
    }

    /// Rows that an embedding needs for the ids of texts and of the tokens at their ends.
    fn rows_needed(&self) -> usize {
        let is_text = |content: &TokenContent| !matches!(content, TokenContent::Special(_));
        let texts = self.contents.iter().rposition(is_text);
        let ends = [self.first, Some(self.eos), Some(self.pad)];
        let ends = ends.into_iter().flatten().max().unwrap_or(0) as usize;
        texts.unwrap_or(0).max(ends) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizers::synthetic;

    fn with_added(id: u32, content: &str, special: bool) -> LlamaTokenizer {
        let json = synthetic::llama(512).unwrap().json;
        let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.push(serde_json::json!({"id": id, "content": content, "special": special}));
        LlamaTokenizer::from_json(&json.to_string()).unwrap()
    }

    #[test]
    fn rows_that_were_filled_up_have_no_text_and_images_stand_behind_them() {
        let tokenizer = with_added(512, "<pad>", true);
        assert_eq!(tokenizer.image_id(), 513);
        let ids = tokenizer.encode("no <pad> lung").unwrap();
        assert!(ids.contains(&512));
        let tokenizer = tokenizer.for_image_id(576).unwrap();
        assert_eq!((tokenizer.image_id(), tokenizer.len()), (576, 577));
        assert_eq!(tokenizer.encode("no <pad> lung").unwrap(), ids);
        assert_eq!(tokenizer.decode_text(&[550, 575]), "");
        assert!(tokenizer.encode("<IMG>").unwrap().ends_with(&[576]));
    }

    #[test]
    fn an_added_token_without_a_row_is_dropped_and_one_that_texts_spell_needs_a_row() {
        let tokenizer = with_added(512, "<pad>", true).for_image_id(512).unwrap();
        assert!(!tokenizer.encode("<pad>").unwrap().contains(&512));
        assert!(tokenizer.encode("<IMG>").unwrap().ends_with(&[512]));
        let spelled = with_added(512, "lungs", false);
        assert!(spelled.encode_plain("no lungs").unwrap().contains(&512));
        assert!(spelled.for_image_id(512).is_err());
    }

    #[test]
    fn a_tokenizer_of_another_vocabulary_does_not_fit() {
        let tokenizer = || LlamaTokenizer::from_json(&synthetic::llama(512).unwrap().json).unwrap();
        for rows in [300, 511, 1024, 32_000] {
            let error = tokenizer().for_image_id(rows).err().unwrap().to_string();
            assert!(error.contains("another model"), "{error}");
        }
        assert_eq!(tokenizer().for_image_id(512).unwrap().image_id(), 512);
        assert_eq!(tokenizer().for_image_id(1023).unwrap().image_id(), 1023);
    }
}

//! Small vocabularies of our own for bundles of random weights, which must work with no external file. They hold what
//! every text needs (bytes, single characters) and then words of the field, so that even a random model writes words.

use super::TokenizerError;
use super::file::{self, BLANK};

/// Words of radiology reports, the commonest first: a small vocabulary takes as many as fit.
const WORDS: &str = "
    the is no of and are there in with right left lung lungs pleural effusion pneumothorax heart size normal clear
    chest lower upper lobe opacity edema pulmonary atelectasis consolidation pneumonia cardiac silhouette
    mediastinal contours unremarkable focal acute seen mild moderate small large bilateral unchanged stable
    enlarged increased decreased base apex tube catheter line tip carina above below within without evidence
    findings image report radiologist radiology write section predicted given style text cardiomegaly fracture
    device support lesion nodule mass vascular congestion interstitial diffuse patchy basilar perihilar hilar
    costophrenic angle diaphragm aorta tortuous calcified spine thoracic rib clavicle pacemaker leads sternotomy
    wires intact limits volumes low prior study compared interval improvement new old possible likely may
    represent suggests consistent user assistant answer question this that for not or on at to from has been
    patient view frontal lateral portable";

/// A LLaMA-style tokenizer.
pub struct SyntheticLlama {
    /// The content of a `tokenizer.json`.
    pub json: String,
    /// First id of a whole word or of several; every id from here on reads well.
    pub first_word: u32,
}

/// Makes a LLaMA-style byte-fallback BPE vocabulary of exactly `size` tokens (`<IMG>` comes after it).
///
/// # Errors
/// When not even special tokens, bytes and single characters fit.
pub fn llama(size: usize) -> Result<SyntheticLlama, TokenizerError> {
    let mut pieces = file::llama_base();
    if size < pieces.len() {
        return Err(TokenizerError::TooSmall {
            asked: size,
            least: pieces.len(),
        });
    }

    // Every word is reached from its start, one character at a time. The merges of one word cannot disturb another:
    // all of them begin at the blank.
    let mut fragments: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut merges: Vec<String> = Vec::new();
    for word in WORDS.split_whitespace() {
        let whole = format!("{BLANK}{word}");
        let ends = whole
            .char_indices()
            .map(|(at, _)| at)
            .skip(2)
            .chain([whole.len()]);
        let steps: Vec<&str> = ends.map(|end| &whole[..end]).collect();
        let known = |piece: &str| fragments.iter().chain(&words).any(|other| other == piece);
        let new: Vec<&str> = steps
            .iter()
            .copied()
            .filter(|piece| !known(piece))
            .collect();
        if pieces.len() + fragments.len() + words.len() + new.len() > size {
            break;
        }
        for piece in new {
            let (start, last) = piece.split_at(piece.len() - 1);
            merges.push(format!("{start} {last}"));
            if piece == whole {
                words.push(piece.into())
            } else {
                fragments.push(piece.into())
            }
        }
    }
    pieces.append(&mut fragments);
    let first_word = pieces.len() as u32;
    pieces.append(&mut words);
    pieces.extend(fillers().take(size - pieces.len()));

    Ok(SyntheticLlama {
        json: file::llama(&pieces, &merges),
        first_word,
    })
}

/// Makes an uncased WordPiece vocabulary of exactly `size` tokens: the content of a `tokenizer.json`. Special tokens
/// have BERT's published ids where there is room for them.
///
/// # Errors
/// When not even special tokens and single characters fit.
pub fn bert(size: usize) -> Result<String, TokenizerError> {
    const SPECIAL: [&str; 4] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let letters = || ('a'..='z').chain('0'..='9');
    let mut characters: Vec<String> = ('!'..='~')
        .filter(|c| !c.is_ascii_uppercase())
        .map(String::from)
        .collect();
    characters.extend(letters().map(|c| format!("##{c}")));

    let least = 1 + SPECIAL.len() + characters.len();
    if size < least {
        return Err(TokenizerError::TooSmall { asked: size, least });
    }
    let unused = if size < least + 99 { 0 } else { 99 };
    let mut pieces = vec!["[PAD]".to_owned()];
    pieces.extend((0..unused).map(|index| format!("[unused{index}]")));
    pieces.extend(SPECIAL.map(String::from));
    pieces.append(&mut characters);
    pieces.extend(
        WORDS
            .split_whitespace()
            .map(String::from)
            .chain(fillers())
            .take(size - pieces.len()),
    );

    let special: Vec<&str> = std::iter::once("[PAD]").chain(SPECIAL).collect();
    Ok(file::bert(&pieces, &special))
}

/// Endless pieces of two words, then three and so on, that no text is encoded to.
fn fillers() -> impl Iterator<Item = String> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let base = words.len();
    (base..).map(move |mut index| {
        let mut piece = String::new();
        loop {
            piece.insert_str(0, &format!("{BLANK}{}", words[index % base]));
            index /= base;
            if index == 0 {
                return piece;
            }
            index -= 1;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizers::{BertTokenizer, LlamaTokenizer};

    #[test]
    fn llama_vocabularies_have_the_asked_size_and_round_trip_text() {
        for size in [400, 1000, 2048, 32000] {
            let tokenizer = LlamaTokenizer::from_json(&llama(size).unwrap().json).unwrap();
            assert_eq!(tokenizer.len(), size + 1);
            assert_eq!(tokenizer.image_id() as usize, size);
            let text = "The lungs are clear; no pneumothorax. Ünïcode 胸 <s>";
            let ids = tokenizer.encode_plain(text).unwrap();
            assert_eq!(tokenizer.decode_text(&ids), text);
        }
    }

    #[test]
    fn a_word_of_the_list_is_one_token() {
        let synthetic = llama(4096).unwrap();
        let tokenizer = LlamaTokenizer::from_json(&synthetic.json).unwrap();
        let ids = tokenizer.encode_plain("no pleural effusion").unwrap();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|&id| id >= synthetic.first_word));
    }

    #[test]
    fn every_id_from_the_first_word_on_reads_as_words() {
        let synthetic = llama(3000).unwrap();
        let tokenizer = LlamaTokenizer::from_json(&synthetic.json).unwrap();
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        for id in synthetic.first_word..3000 {
            let text = tokenizer.decode_continuation(&[id]);
            assert!(
                text.starts_with(' ') && text.split_whitespace().all(|word| words.contains(&word)),
                "{id}: {text}"
            );
        }
    }

    #[test]
    fn bert_vocabularies_have_the_published_special_ids_where_there_is_room() {
        for size in [120, 400, 30522] {
            let tokenizer = BertTokenizer::from_json(&bert(size).unwrap()).unwrap();
            assert_eq!((tokenizer.len(), tokenizer.pad_id()), (size, 0));
        }
        let tokenizer = BertTokenizer::from_json(&bert(2000).unwrap()).unwrap();
        let ids = tokenizer.encode("Lungs: clear", 512).unwrap();
        assert_eq!((ids[0], ids[4]), (101, 102));
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn a_vocabulary_without_room_for_single_characters_is_refused() {
        assert!(matches!(
            llama(300),
            Err(TokenizerError::TooSmall { asked: 300, .. })
        ));
        assert!(matches!(
            bert(50),
            Err(TokenizerError::TooSmall { asked: 50, .. })
        ));
    }
}

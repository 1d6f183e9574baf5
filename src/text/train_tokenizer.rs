//! Training a tokenizer: byte-level BPE.

use std::path::Path;

use tokenizers::Tokenizer as Inner;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::Tokenizer;
use super::data::each_text;
use super::tokenizer::chunks;
use crate::error::{Error, Result};

/// The largest vocabulary that can be trained.
pub const LARGEST_VOCABULARY: u32 = 1 << 20;

impl Tokenizer {
    /// Trains byte-level BPE with exactly `size` tokens on the texts of a data set (in a directory, its `train` file), split into words as
    /// GPT-2 does. Returns the text of a `tokenizer.json`. The tokenizer can encode any text, since every byte is a token. The same data
    /// produce the same tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] if the size is below 256, the number of bytes, or above [`LARGEST_VOCABULARY`]; [`Error::File`] if the data cannot
    /// be read or contain too little text for `size` tokens.
    pub fn train_bpe(data: &Path, size: u32) -> Result<String> {
        if !(256..=LARGEST_VOCABULARY).contains(&size) {
            return Err(Error::Usage(format!("a BPE tokenizer cannot have {size} tokens; choose 256 to {LARGEST_VOCABULARY}")));
        }
        let mut texts = Vec::new();
        let file = each_text(data, |text| texts.push(text))?;
        let failed = |e: tokenizers::Error| Error::file(&file, format!("yields no tokenizer ({e}); use other text, or bytes as tokens"));

        let mut inner = Inner::new(BPE::default());
        let level = ByteLevel::new(false, false, true);
        inner.with_pre_tokenizer(Some(level)).with_decoder(Some(level));
        // A pair that occurs once is not a pattern.
        let alphabet = ByteLevel::alphabet().into_iter().collect();
        let trainer = BpeTrainer::builder().vocab_size(size as usize).min_frequency(2).initial_alphabet(alphabet).show_progress(false);
        let chunks: Vec<&str> = texts.iter().flat_map(|text| chunks(text)).collect();
        inner.train(&mut TrainerWrapper::from(trainer.build()), chunks.into_iter()).map_err(failed)?;
        let has = inner.get_vocab_size(true);
        if has < size as usize {
            let problem = format!("has enough text for {has} tokens, but not for {size}; add text or choose a smaller vocabulary");
            return Err(Error::file(file, problem));
        }
        inner.to_string(true).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A file that is removed at the end of the test.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("graftling-bpe-{}-{name}", std::process::id()));
            std::fs::write(&path, text).expect("a file");
            File(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    const TEXT: &str = include_str!("../model/transformer.rs");

    #[test]
    fn of_the_wished_size_and_nothing_is_lost() {
        let file = File::new("text.txt", TEXT);
        for size in [256, 257, 400, 700] {
            let json = Tokenizer::train_bpe(&file.0, size).expect("a tokenizer");
            let tokenizer = Tokenizer::from_json(&json).expect("its own file");
            assert_eq!((tokenizer.len(), tokenizer.vocab_size()), (size as usize, size as usize));
            for text in [TEXT, "", " ", "\0\r\n\t", "Größe 🦀 漢字 \u{10FFFF}", "  two  spaces\n\nand lines  "] {
                let tokens = tokenizer.encode(text).expect("tokens");
                assert_eq!(tokenizer.decode(&tokens), text);
            }
            let (few, bytes) = (tokenizer.encode(TEXT).expect("tokens").len(), TEXT.len());
            assert!(size == 256 || few < bytes, "{few} tokens for {bytes} bytes");
            assert!(size < 700 || few * 2 < bytes, "{few} tokens for {bytes} bytes");
        }
    }

    #[test]
    fn the_same_data_give_the_same_tokens() {
        let file = File::new("same.txt", TEXT);
        let first = Tokenizer::train_bpe(&file.0, 600).expect("a tokenizer");
        for _ in 0..3 {
            assert_eq!(Tokenizer::train_bpe(&file.0, 600).expect("a tokenizer"), first);
        }
        // Rows with the same texts produce the same tokens.
        let half = TEXT.find("\nstruct").expect("a place");
        let (a, b) = TEXT.split_at(half);
        let rows = [serde_json::json!({ "text": a }), serde_json::json!({ "prompt": b, "completion": "" })].map(|row| row.to_string());
        let rows = File::new("rows.jsonl", &rows.join("\n"));
        assert_eq!(Tokenizer::train_bpe(&rows.0, 600).expect("a tokenizer"), first);
    }

    #[test]
    fn too_little_text() {
        let file = File::new("little.txt", "la la la la la");
        let error = Tokenizer::train_bpe(&file.0, 1000).expect_err("too little").to_string();
        assert!(error.contains("little.txt: has enough text for 25") && error.contains("tokens, but not for 1000;"), "{error}");
        for size in [0, 255, LARGEST_VOCABULARY + 1] {
            assert_eq!(Tokenizer::train_bpe(&file.0, size).expect_err("no size").exit_code(), 2);
        }
        assert_eq!(Tokenizer::train_bpe("nowhere.txt".as_ref(), 300).expect_err("no file").exit_code(), 3);
    }
}

//! Tokens to text while they come.

/// As many tokens as may be held back for the rest of a character. One has at most four bytes, so it takes junk to reach this.
const MOST_HELD: usize = 8;

/// Turns tokens into text as they come. Special tokens have no text. What could be the beginning of a character is held back until the rest
/// is there.
pub struct Decoder<'a> {
    inner: &'a tokenizers::Tokenizer,
    /// The last tokens: some that have been shown, since how a token decodes may depend on those before it, and those held back.
    window: Vec<u32>,
    /// How many tokens of the window have been shown.
    shown: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(inner: &'a tokenizers::Tokenizer) -> Decoder<'a> {
        Decoder { inner, window: Vec::new(), shown: 0 }
    }

    fn text(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    /// Takes one more token and returns the text that it completes, which may be empty.
    pub fn push(&mut self, token: u32) -> String {
        self.window.push(token);
        let (before, now) = (self.text(&self.window[..self.shown]), self.text(&self.window));
        if now.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() - self.shown < MOST_HELD {
            return String::new();
        }
        let new = now.strip_prefix(&before).unwrap_or_default().to_owned();
        if !new.is_empty() {
            self.window.drain(..self.shown);
            self.shown = self.window.len();
        }
        new
    }

    /// The text that was still held back.
    pub fn finish(self) -> String {
        let (before, now) = (self.text(&self.window[..self.shown]), self.text(&self.window));
        now.strip_prefix(&before).unwrap_or_default().to_owned()
    }
}

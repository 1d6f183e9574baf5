//! Decoding a stream of tokens.

/// The most tokens held back for the rest of a character. A character has at most four bytes, so only invalid UTF-8 reaches this limit.
const MOST_HELD: usize = 8;

/// Decodes tokens as they arrive. Special tokens have no text. An incomplete character is held back until the rest arrives.
pub struct Decoder<'a> {
    inner: &'a tokenizers::Tokenizer,
    /// The last tokens: some already shown, since the text of a token may depend on those before it, and those held back.
    window: Vec<u32>,
    /// The number of tokens in the window that have been shown.
    shown: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(inner: &'a tokenizers::Tokenizer) -> Decoder<'a> {
        Decoder { inner, window: Vec::new(), shown: 0 }
    }

    fn text(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    /// Adds a token and returns the text that it completes, which may be empty.
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

    /// Returns the text still held back.
    pub fn finish(self) -> String {
        let (before, now) = (self.text(&self.window[..self.shown]), self.text(&self.window));
        now.strip_prefix(&before).unwrap_or_default().to_owned()
    }
}

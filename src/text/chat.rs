//! Chat templates: formatting a conversation as the text that the model was trained on.
//!
//! A template is a program that comes with a model, so it is not trusted: it sees only the conversation, reads no files, and is stopped if
//! it runs too long.

mod python;
#[cfg(test)]
mod tests;

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};

use super::Tokenizer;
use crate::error::{Error, Result};
use crate::words::{did_you_mean, shown};

/// The most instructions that one rendering may execute; a message usually takes hundreds.
const FUEL: u64 = 20_000_000;

/// Replaces a turn's content to locate it in the output. Private-use characters, which no text contains by chance.
const MARK: &str = "\u{F8FF}\u{10FFFD}graftling\u{10FFFD}\u{F8FF}";

/// The roles that chat templates have.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Other tools' names for these roles.
const OTHER_ROLES: [(&str, &[&str]); 4] = [
    ("system", &["developer", "instruction"]),
    ("user", &["human", "person", "customer", "prompter"]),
    ("assistant", &["gpt", "chatgpt", "ai", "bot", "model", "llm", "agent", "answer"]),
    ("tool", &["function", "observation", "ipython", "tool_response"]),
];

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Message {
    /// The speaker, such as `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A model's chat template with the special tokens that it can use.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of these tokens, for models that have them.
    ///
    /// # Errors
    /// [`Error::Usage`] if the template is not valid.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| fails("cannot be set up", &e))?);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", |value: &Value, options: Kwargs| python::to_json(value, &options));
        environment.add_test("iterable", python::is_iterable);
        let now = std::time::SystemTime::now();
        environment.add_function("strftime_now", move |format: &str| python::strftime(format, now));
        let raise = |message: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        };
        environment.add_function("raise_exception", raise);
        let source = python::without_generation_tags(source);
        environment.add_template_owned("chat", source.clone()).map_err(|e| fails("is not valid", &e))?;
        Ok(ChatTemplate { environment, source, bos: bos.map(str::to_owned), eos: eos.map(str::to_owned) })
    }

    /// Compiles the template of a model.
    ///
    /// # Errors
    /// [`Error::File`] if the model has no template, or an invalid one.
    pub fn of(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let Some(source) = tokenizer.chat_template() else {
            let advice = "use rows with 'prompt' and 'completion', use an instruction-tuned model, or put a chat_template.jinja beside it";
            return Err(Error::file(tokenizer.path(), format!("belongs to a model without a chat template; {advice}")));
        };
        let text = |token: Option<u32>| token.and_then(|token| tokenizer.token(token));
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.end_tokens().first().copied()));
        ChatTemplate::new(source, bos.as_deref(), eos.as_deref()).map_err(|e| Error::file(tokenizer.path(), format!("cannot be used: {e}")))
    }

    /// Checks that the roles are ones that chat templates know. Many templates write out any role as it is, and the model would learn a
    /// word that it never sees again.
    ///
    /// # Errors
    /// [`Error::Usage`], which names the message and its role.
    pub fn check_roles(&self, messages: &[Message]) -> Result<()> {
        // A template can know other roles, which then appear in it in quotes.
        let named = |role: &str| !role.is_empty() && ['\'', '"'].iter().any(|quote| self.source.contains(&format!("{quote}{role}{quote}")));
        let Some((at, role)) = messages.iter().map(|m| m.role.as_str()).enumerate().find(|(_, role)| !ROLES.contains(role) && !named(role))
        else {
            return Ok(());
        };
        let usual = OTHER_ROLES.iter().find(|(_, others)| others.contains(&role.to_lowercase().as_str()));
        let meant = usual.map(|(usual, _)| format!("did you mean '{usual}'?")).or_else(|| did_you_mean(role, ROLES));
        let [roles @ .., last] = ROLES;
        let list = format!("the roles are {} and {last}", roles.join(", "));
        let advice = [Some(list), meant].into_iter().flatten().collect::<Vec<_>>().join("; ");
        Err(Error::Usage(format!("message {} has the role '{}', which is not known; {advice}", at + 1, shown(role))))
    }

    /// Renders a conversation. `add_generation_prompt` appends the text that precedes the assistant's answer.
    ///
    /// # Errors
    /// [`Error::Usage`] if the template rejects the conversation, fails, or runs too long.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let text = |text: &Option<String>| text.as_deref().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => Value::from_iter(messages.iter().map(message)),
            add_generation_prompt,
            bos_token => text(&self.bos),
            eos_token => text(&self.eos),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        let template = self.environment.get_template("chat").expect("it was added");
        template.render(context).map_err(|e| fails("cannot be used for this conversation", &e))
    }

    /// Renders a conversation and returns the byte ranges of the assistant's turns, including the text that ends each turn.
    ///
    /// A turn begins where the generation prompt of the messages before it ends, and ends where the text of the messages up to it ends.
    /// Some templates render a turn differently when others follow (Qwen 3 drops the model's reasoning). In that case, a mark in place of
    /// the turn's content locates it: text that is the same before and after the mark is not part of the content. The turn's end is the
    /// text after the content that is the same here and when the turn is the last.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], and [`Error::Usage`] if a turn cannot be found in the text.
    pub fn render_with_turns(&self, messages: &[Message]) -> Result<(String, Vec<Range<usize>>)> {
        let text = self.render(messages, false)?;
        let mut turns: Vec<Range<usize>> = Vec::new();
        for at in (0..messages.len()).filter(|&at| messages[at].role == "assistant") {
            // Some templates reject a conversation that does not begin with the user; then only the mark helps.
            let before = self.render(&messages[..at], true).ok();
            let through = self.render(&messages[..=at], false).ok();
            let exact = match (&before, &through) {
                (Some(before), Some(through)) if text.starts_with(through.as_str()) && through.starts_with(before.as_str()) => {
                    Some(before.len()..through.len())
                }
                _ => None,
            };
            let turn = match exact {
                Some(turn) => turn,
                None => self.marked_turn(&text, messages, at, before.as_deref())?,
            };
            if turns.last().is_some_and(|last| turn.start < last.end) {
                return Err(unclear(at));
            }
            turns.push(turn);
        }
        Ok((text, turns))
    }

    /// Finds the turn of message `at` by a mark in place of its content.
    fn marked_turn(&self, text: &str, messages: &[Message], at: usize, before: Option<&str>) -> Result<Range<usize>> {
        let mut marked = messages.to_vec();
        marked[at].content = MARK.to_owned();
        let whole = self.render(&marked, false)?;
        let (prefix, suffix) = whole.split_once(MARK).ok_or_else(|| unclear(at))?;
        let found = !suffix.contains(MARK) && text.starts_with(prefix) && text.ends_with(suffix);
        if !found || prefix.len() + suffix.len() > text.len() {
            return Err(unclear(at));
        }
        let content = prefix.len()..text.len() - suffix.len();
        let through = self.render(&marked[..=at], false)?;
        let (_, end) = through.split_once(MARK).ok_or_else(|| unclear(at))?;
        let start = before.map_or(content.start, |before| common_prefix(before, text).min(content.start));
        Ok(start..content.end + common_prefix(end, suffix))
    }
}

/// The length in bytes of the common prefix of two texts, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let differ = a.bytes().zip(b.bytes()).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    (0..=differ).rev().find(|&at| b.is_char_boundary(at)).unwrap_or(0)
}

fn unclear(at: usize) -> Error {
    let advice = "use rows with 'prompt' and 'completion', or --train-on-prompt";
    Error::Usage(format!("cannot find the assistant's turn (message {}) in the output of the model's chat template; {advice}", at + 1))
}

fn fails(what: &str, e: &minijinja::Error) -> Error {
    let line = e.line().map_or(String::new(), |line| format!(" in line {line}"));
    let reason = match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, _) => "it runs too long".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    Error::Usage(format!("the model's chat template {what} ({reason}{line}); change the conversation or the template"))
}

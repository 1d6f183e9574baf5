//! `graftling generate`: text from a model.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueHint};
use graftling::generate::{Generator, recordings};
use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterExpression, Trains};
use graftling::sampling::Sampling;
use graftling::text::{ChatTemplate, Message};
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::{Value, json};

use super::setup::{Setup, adapters, check_kernels, open_device};
use super::{Common, print};

/// Continues a text, or answers in a chat
#[derive(Args)]
#[command(after_help = "Examples:
  graftling generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt \"The capital of France is\" --max-tokens 8
  graftling generate --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter RUN/adapter --chat \"What is an adapter?\"")]
pub struct Generate {
    /// A directory in Hugging Face format, a .gguf file, or builtin: a small byte-level GPT to try things out
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved adapter, or several combined: stack(A,B), average(A:0.7,B:0.3); with several options, each continues the text in turn, the base first
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: Vec<AdapterExpression>,
    #[command(flatten)]
    input: Input,
    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: u32,
    /// 0 for greedy decoding; higher values sample more freely
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample from the K most likely tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample from the most likely tokens whose probabilities add up to P
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Seed for sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A text to continue; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A message to answer, using the model's chat template; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    chat: Option<String>,
}

impl Generate {
    pub fn run(&self, common: &Common) -> Result<()> {
        self.sampling().check()?;
        let input = text(self.input.prompt.as_ref().or(self.input.chat.as_ref()).expect("clap asks for one of them"))?;
        let setup = Setup::read(common, &self.model, self.adapter.first().filter(|_| self.adapter.len() == 1))?;
        let prompt = self.prompt(&setup, &input)?;
        let mut device = open_device(common)?;
        if self.adapter.len() < 2 {
            let (tokens, result, _) = self.answer(common, &setup, &mut device, None, &prompt)?;
            common.note(format!("{}, {:.1} per second", count(tokens, "token"), result["tokens_per_second"].as_f64().unwrap_or(0.0)));
            if common.json {
                print(result);
            }
            return Ok(());
        }
        let (mut results, mut base) = (Vec::new(), None);
        for adapter in [None].into_iter().chain(self.adapter.iter().map(Some)) {
            let name = adapter.map_or("the base alone".into(), |directory| directory.to_string());
            if !common.json {
                print(format!("--- {name}"));
            }
            let adapted = adapter.map(|adapter| setup.with(common, adapter)).transpose()?;
            let (_, mut result, memory) = self.answer(common, adapted.as_ref().unwrap_or(&setup), &mut device, base.as_ref(), &prompt)?;
            result["adapter"] = name.into();
            results.push(result);
            base.get_or_insert(memory);
        }
        if common.json {
            print(json!({ "results": results }));
        }
        Ok(())
    }

    /// The tokens to continue.
    fn prompt(&self, setup: &Setup, input: &str) -> Result<Vec<u32>> {
        if setup.base.config.encoder.is_some() {
            let problem = format!("{} is an encoder, which cannot continue a text", self.model.display());
            return Err(Error::Usage(format!("{problem}; give a decoder, or see graftling embed and predict")));
        }
        let tokenizer = &setup.base.tokenizer;
        let prompt = if self.input.chat.is_some() {
            let message = Message { role: "user".into(), content: input.into() };
            tokenizer.encode(&ChatTemplate::of(tokenizer)?.render(&[message], true)?)?
        } else {
            tokenizer.encode_document(input)?
        };
        let context = setup.base.config.context;
        if prompt.is_empty() {
            return Err(Error::Usage("the prompt has no tokens; give a text to continue".into()));
        }
        if prompt.len() >= context as usize {
            let has = prompt.len();
            return Err(Error::Usage(format!(
                "the prompt has {}, but the model's context is {context}; give a shorter one",
                count(has, "token")
            )));
        }
        Ok(prompt)
    }

    /// Continues the prompt with the adapters of a setup. `base` is the memory of the base alone, if that is on the device already. Shows the
    /// text as it comes, unless the result is printed as JSON. Returns the number of tokens, the JSON and the memory.
    fn answer(
        &self,
        common: &Common,
        setup: &Setup,
        device: &mut Device,
        base: Option<&Memory>,
        prompt: &[u32],
    ) -> Result<(usize, Value, Memory)> {
        let (tokenizer, context) = (&setup.base.tokenizer, setup.base.config.context);
        let model = setup.model(&setup.base.config, None, Trains::adapters())?;
        let context = (prompt.len() as u32).saturating_add(self.max_tokens).next_multiple_of(64).min(context);
        let warnings = check_kernels(common, device, |traits| recordings(&model, traits, context))?;
        let memory = setup.upload_beside(device, &model, base)?;
        let mut generator = Generator::new(device, &model, &memory, context)?;
        let mut decoder = tokenizer.decoder();
        let started = Instant::now();
        let tokens = generator.generate(prompt, self.max_tokens as usize, self.sampling(), tokenizer.end_tokens(), |token| {
            // A closed pipe ends the generation.
            common.json || show(&decoder.push(token))
        })?;
        let speed = tokens.len() as f64 / started.elapsed().as_secs_f64();
        if !common.json {
            show(&decoder.finish());
            print("");
        }
        let text = tokenizer.decode(&tokens);
        let result = json!({ "text": text, "tokens": tokens.len(), "tokens_per_second": speed, "warnings": warnings });
        Ok((tokens.len(), result, memory))
    }

    fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed }
    }
}

/// The text itself, or standard input if it is `-`.
fn text(argument: &str) -> Result<String> {
    if argument != "-" {
        return Ok(argument.into());
    }
    let mut text = String::new();
    let unreadable = |e| Error::Usage(format!("standard input is not text ({e}); give UTF-8"));
    std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Prints a piece of text without a line break and flushes it. False if standard output is closed.
fn show(piece: &str) -> bool {
    let mut out = std::io::stdout();
    out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok()
}

use std::path::Path;

use super::{DataOptions, Dataset, Splits};
use crate::error::{Error, Result};
use crate::files::Folder;
use crate::text::IGNORED;
use crate::text::{Batches, Position, Sequence, Task, TaskKind, Tokenizer};
use crate::weights::Gguf;

const NO: u32 = IGNORED;

impl Folder {
    /// The tokenizer of bytes, with `config` beside it.
    fn bytes(&self, config: &str) -> Tokenizer {
        self.put("tokenizer.json", Tokenizer::bytes_json());
        self.put("tokenizer_config.json", config);
        Tokenizer::read(&self.0).expect("a tokenizer")
    }
}

fn fixture(kind: &str) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/tokenizers/{kind}.gguf"));
    Tokenizer::from_gguf(&Gguf::open(&path).expect("a fixture")).expect("a tokenizer")
}

fn options(max_length: usize) -> DataOptions {
    DataOptions { max_length, train_on_prompt: false, task: Task::Language }
}

fn everything(max_length: usize) -> DataOptions {
    DataOptions { max_length, train_on_prompt: true, task: Task::Language }
}

const CONFIG: &str = r#"{"eos_token": "~", "bos_token": "^",
    "chat_template": "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"}"#;

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// The tokens of bytes as a text, and the targets with `.` for none.
fn shown(sequence: &Sequence) -> (String, String) {
    let text = |ids: &[u32]| ids.iter().map(|&id| if id == NO { '.' } else { char::from(id as u8) }).collect();
    (text(&sequence.tokens), text(&sequence.targets))
}

fn one(folder: &Folder, tokenizer: &Tokenizer, row: &str, options: &DataOptions) -> Result<(String, String)> {
    let path = folder.put("one.jsonl", row);
    Dataset::read(&path, tokenizer, options).map(|data| shown(&data.sequences[0]))
}

#[test]
fn rows_become_sequences() {
    let folder = Folder::new("data-rows");
    let tokenizer = folder.bytes(CONFIG);
    let read = |row: &str, options: &DataOptions| one(&folder, &tokenizer, row, options).expect("a row");
    let pair = |tokens: &str, targets: &str| (tokens.to_owned(), targets.to_owned());
    assert_eq!(read(r#"{"text": "abc", "other": [{}]}"#, &options(9)), pair("abc", "bc."));
    let completion = r#"{"prompt": "ab", "completion": "cd"}"#;
    assert_eq!(read(completion, &options(9)), pair("abcd~", ".cd~."));
    assert_eq!(read(completion, &everything(9)), pair("abcd~", "bcd~."));
    assert_eq!(read(completion, &options(3)), pair("abc", ".c."));
    assert_eq!(read(r#"{"prompt": "", "completion": "cd"}"#, &options(9)), pair("cd~", "d~."));
    let chat = r#"{"messages": [{"role": "user", "content": "x", "more": 1}, {"role": "assistant", "content": "yz"},
        {"role": "user", "content": "w"}, {"role": "assistant", "content": "v"}]}"#
        .replace('\n', " ");
    assert_eq!(read(&chat, &options(99)), pair("u:x;a:yz;u:w;a:v;", ".....yz;......v;."));
    assert_eq!(read(&chat, &everything(99)), pair("u:x;a:yz;u:w;a:v;", ":x;a:yz;u:w;a:v;."));
    // Several kinds in one row: the one with most structure counts.
    assert_eq!(read(r#"{"text": "no", "prompt": "a", "completion": "b"}"#, &options(9)), pair("ab~", "b~."));
}

#[test]
fn bos_is_where_the_model_asks_for_it() {
    let folder = Folder::new("data-bos");
    let config = CONFIG.replacen('{', r#"{"add_bos_token": true, "#, 1);
    let tokenizer = folder.bytes(&config);
    let read = |row: &str| one(&folder, &tokenizer, row, &options(99)).expect("a row").0;
    assert_eq!(read(r#"{"text": "a"}"#), "^a");
    assert_eq!(read(r#"{"prompt": "a", "completion": "b"}"#), "^ab~");
    assert_eq!(read(r#"{"messages": [{"role": "assistant", "content": "b"}]}"#), "a:b;");
    let text = Dataset::read(&folder.put("t.txt", "abcdefgh"), &tokenizer, &options(3)).expect("a text");
    assert_eq!(text.sequences.iter().map(|s| shown(s).0).collect::<Vec<_>>(), ["^ab", "cde", "fgh"]);
    // No end token if the model has none.
    let tokenizer = folder.bytes("{}");
    assert_eq!(one(&folder, &tokenizer, r#"{"prompt": "a", "completion": "b"}"#, &options(9)).expect("a row").0, "ab");
}

#[test]
fn texts_are_cut_into_full_sequences() {
    let folder = Folder::new("data-texts");
    let tokenizer = folder.bytes("{}");
    let read = |text: &str, length| {
        let data = Dataset::read(&folder.put("t.TXT", text), &tokenizer, &options(length)).expect("a text");
        assert_eq!((data.cut, data.dropped, data.max_length), (0, 0, length));
        data.sequences
    };
    assert_eq!(read("abcdefg", 3), [Sequence::new(ids("abc")), Sequence::new(ids("def"))]);
    assert_eq!(read("\u{FEFF}ab", 3), [Sequence::new(ids("ab"))]);
    assert_eq!(read("a\n", 2), [Sequence { tokens: ids("a\n"), types: vec![], targets: vec![10, NO], of_row: false }]);
}

#[test]
fn rows_that_are_too_long_are_counted() {
    let folder = Folder::new("data-long");
    let tokenizer = folder.bytes(CONFIG);
    let rows = [
        r#"{"text": "abcdef"}"#,
        "",
        r#"{"prompt": "abcd", "completion": "e"}"#,
        r#"{"prompt": "abc", "completion": "e"}"#,
        "  \t",
        r#"{"text": "ab"}"#,
    ];
    let path = folder.put("rows.jsonl", format!("\u{FEFF}{}", rows.join("\r\n")));
    let data = Dataset::read(&path, &tokenizer, &options(4)).expect("rows");
    assert_eq!(
        data.sequences.iter().map(shown).collect::<Vec<_>>(),
        [("abcd".into(), "bcd.".into()), ("abce".into(), "..e.".into()), ("ab".into(), "b.".into())]
    );
    assert_eq!((data.cut, data.dropped), (3, 1));
    let error = Dataset::read(&path, &tokenizer, &options(2)).map(|data| (data.cut, data.dropped)).expect("two rows are left");
    assert_eq!(error, (3, 2));
}

#[test]
fn prompts_keep_their_tokens() {
    for kind in ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "llama", "llama-no-space"] {
        let tokenizer = fixture(kind);
        let pairs = [
            ("The gar", "den was"),
            ("The garden ", "was"),
            ("The garden", " was"),
            ("12", "34"),
            ("it'", "s"),
            ("a\n", "\nb"),
            ("", "x y"),
        ];
        for (prompt, completion) in pairs {
            let (tokens, from) = super::language::continued(&tokenizer, prompt, completion).expect("tokens");
            assert_eq!(tokens[..from], tokenizer.encode_document(prompt).expect("tokens"), "{kind}");
            assert_eq!(tokens.last(), tokenizer.end_tokens().first());
            let bos = usize::from(tokenizer.encode_document("").expect("tokens").len() == 1);
            assert_eq!(tokenizer.decode(&tokens[bos..tokens.len() - 1]), [prompt, completion].concat(), "{kind}");
        }
    }
}

#[test]
fn only_whole_tokens_of_a_turn_are_learned() {
    let tokenizer = fixture("gpt-2");
    let folder = Folder::new("data-turns");
    // The template of this file writes `<|user|>`, the content and `<|end|>` for everyone.
    let row = r#"{"messages": [{"role": "user", "content": "it's"}, {"role": "assistant", "content": "the garden"}]}"#;
    let path = folder.put("chat.jsonl", row);
    let data = Dataset::read(&path, &tokenizer, &options(99)).expect("a chat");
    let sequence = &data.sequences[0];
    let learned: Vec<u32> = sequence.targets.iter().copied().filter(|&t| t != NO).collect();
    assert_eq!(sequence.tokens, tokenizer.encode("<|user|>it's<|end|><|user|>the garden<|end|>").expect("tokens"));
    assert_eq!(learned, tokenizer.encode("<|user|>the garden<|end|>").expect("tokens"));
}

#[test]
fn bad_data_are_named() {
    let folder = Folder::new("data-bad");
    let tokenizer = folder.bytes(CONFIG);
    let plain = fixture("llama");
    let error = |tokenizer: &Tokenizer, name: &str, bytes: &[u8]| -> Error {
        Dataset::read(&folder.put(name, bytes), tokenizer, &options(8)).err().unwrap_or_else(|| panic!("{name}"))
    };
    let cases: [(&str, &[u8], &str); 26] = [
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b"\n \n", "no rows"),
        ("a.jsonl", b"{\"text\": \"ab\"}\n{", "line 2 ends in the middle of a JSON object"),
        ("a.jsonl", b"[\"ab\"]", "line 1 is not a JSON object"),
        ("a.jsonl", b"\"ab\"", "line 1 is not a JSON object"),
        ("a.jsonl", b"{\"text\": \"ab\"} x", "line 1 is not a JSON object"),
        ("a.jsonl", b"{\"text\": \"ab\", \"text\": \"c\"}", "line 1 is not a JSON object (duplicate field"),
        ("a.jsonl", b"\n{\"text\": \"\xff\"}", "line 2 is not UTF-8"),
        ("a.jsonl", b"{\"texts\": \"ab\"}", "line 1 has none of the keys"),
        ("a.jsonl", b"{}", "line 1 has none of the keys"),
        ("a.jsonl", b"{\"text\": null}", "line 1 has none of the keys"),
        ("a.jsonl", b"{\"text\": 3}", "line 1 has a 'text'"),
        ("a.jsonl", b"{\"prompt\": \"a\"}", "line 1 has a 'prompt' without"),
        ("a.jsonl", b"{\"completion\": \"a\"}", "line 1 has a 'completion' without"),
        ("a.jsonl", b"{\"prompt\": \"a\", \"completion\": []}", "line 1 has a 'completion' that"),
        ("a.jsonl", b"{\"messages\": {}}", "line 1 has 'messages' that are not a list"),
        ("a.jsonl", b"{\"messages\": []}", "line 1 has 'messages' without"),
        ("a.jsonl", b"{\"messages\": [1]}", "no 'role' in message 1"),
        ("a.jsonl", b"{\"messages\": [{\"role\": \"user\"}]}", "no 'content' in message 1"),
        ("a.jsonl", b"{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}", "a 'content' in message 1"),
        ("a.jsonl", b"{\"text\": \"a\"}", "line 1 has nothing to learn"),
        ("a.jsonl", b"{\"prompt\": \"ab\", \"completion\": \"\"}", "line 1 has nothing to learn"),
        ("a.jsonl", b"{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}", "line 1 has nothing to learn"),
        ("a.jsonl", b"{\"messages\": [{\"role\": \"assistant\", \"content\": \" \"}]}", "line 1 has nothing to learn"),
        ("a.jsonl", b"{\"prompt\": \"12345678\", \"completion\": \"b\"}", "a longer maximum length"),
        ("a.txt", b"a\nb\n\xff", "line 3 is not UTF-8"),
    ];
    for (name, bytes, words) in cases {
        let error = error(&tokenizer, name, bytes);
        let text = error.to_string();
        assert!(error.exit_code() == 3 && text.contains(name) && text.contains(words) && !text.contains('\n'), "{words}: {text}");
    }
    for name in ["a.txt", "b.csv", "c"] {
        assert_eq!(error(&tokenizer, name, b"a").exit_code(), 3);
    }
    let deep = [b"{\"x\": ".as_slice(), &[b'['; 100_000]].concat();
    assert!(error(&tokenizer, "a.jsonl", &deep).to_string().contains("line 1"));
    let chat = b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"b\"}]}";
    assert!(error(&plain, "a.jsonl", chat).to_string().contains("without a chat template"));
    let refuses = folder.bytes(r#"{"chat_template": "{{ raise_exception('no') }}"}"#);
    let refused = error(&refuses, "a.jsonl", chat);
    assert!(refused.exit_code() == 3 && refused.to_string().contains("a.jsonl: line 1: the model's chat template"), "{refused}");
    let invalid = folder.bytes(r#"{"chat_template": "{% for %}"}"#);
    assert_eq!(error(&invalid, "a.jsonl", chat).exit_code(), 3);
    assert_eq!(Dataset::read(&folder.put("a.txt", "abc"), &tokenizer, &options(1)).expect_err("too short").exit_code(), 2);
    for path in [folder.0.join("none.jsonl"), folder.0.join("none"), folder.0.clone()] {
        assert_eq!(Dataset::read(&path, &tokenizer, &options(8)).expect_err("no file").exit_code(), 3);
    }
}

#[test]
fn directories_have_splits() {
    let folder = Folder::new("data-splits");
    let tokenizer = folder.bytes("{}");
    let read = || Splits::read(&folder.0, &tokenizer, &options(8));
    assert!(read().expect_err("no train.jsonl").to_string().contains("train.jsonl"));
    folder.put("train.txt", "abc");
    let splits = read().expect("a text");
    assert!(splits.train.path.ends_with("train.txt") && splits.valid.is_none() && splits.test.is_none());
    for name in ["train.jsonl", "valid.jsonl", "test.jsonl"] {
        folder.put(name, r#"{"text": "ab"}"#);
    }
    let splits = read().expect("three files");
    assert!(splits.train.path.ends_with("train.jsonl") && splits.valid.is_some() && splits.test.is_some());
    assert!(Splits::read(&folder.0.join("test.jsonl"), &tokenizer, &options(8)).expect("a file").valid.is_none());
}

#[test]
fn batches_go_on_where_they_were() {
    let folder = Folder::new("data-batches");
    let tokenizer = folder.bytes("{}");
    let rows: String = ('a'..='g').map(|c| format!("{{\"text\": \"{c}{c}\"}}\n")).collect();
    let data = Dataset::read(&folder.put("a.jsonl", rows), &tokenizer, &options(512)).expect("rows");
    let firsts = |batch: crate::text::Batch| batch.tokens.chunks(batch.length as usize).map(|row| row[0]).collect::<Vec<_>>();
    let mut batches = Batches::new(&data, 3, Some(7));
    assert_eq!((batches.per_epoch(), batches.position()), (3, Position { epoch: 0, index: 0 }));
    let all: Vec<Vec<u32>> = batches.by_ref().take(9).map(firsts).collect();
    assert_eq!(batches.position(), Position { epoch: 3, index: 0 });
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1, 3, 3, 1, 3, 3, 1]);
    for epoch in all.chunks(3) {
        let mut sorted = epoch.concat();
        sorted.sort();
        assert_eq!(sorted, ids("abcdefg"));
    }
    assert_ne!(all[0], all[3]);
    let later = Batches::new(&data, 3, Some(7)).starting_at(Position { epoch: 1, index: 1 });
    assert_eq!(later.take(3).map(firsts).collect::<Vec<_>>(), all[4..7]);
    assert_eq!(Batches::new(&data, 3, None).starting_at(Position { epoch: 0, index: 9 }).position(), Position { epoch: 1, index: 0 });
    assert_eq!(data.batches(4).map(firsts).collect::<Vec<_>>(), [ids("abcd"), ids("efg")]);
    assert_eq!(data.batches(4).map(|batch| batch.length).collect::<Vec<_>>(), [8, 8]);
}

/// The task of a file, and what its rows become.
fn labelled(folder: &Folder, name: &str, rows: &str, wanted: Option<TaskKind>) -> Result<(Task, Vec<Sequence>)> {
    let path = folder.put(name, rows);
    let task = Task::of(&path, wanted)?;
    let options = DataOptions { max_length: 8, train_on_prompt: false, task: task.clone() };
    Ok((task, Dataset::read(&path, &folder.bytes("{}"), &options)?.sequences))
}

fn names(task: &Task) -> Vec<&str> {
    task.labels().map_or(Vec::new(), |labels| labels.names().iter().map(String::as_str).collect())
}

#[test]
fn labels_become_targets() {
    let folder = Folder::new("data-labels");
    let rows = "{\"text\": \"ab\", \"label\": \"spam\"}\n{\"text\": \"c\", \"label\": \"ham\"}\n";
    let (task, sequences) = labelled(&folder, "a.jsonl", rows, None).expect("labels");
    assert_eq!((task.kind(), names(&task)), (TaskKind::Classification, vec!["ham", "spam"]));
    assert_eq!(sequences[0], Sequence { tokens: ids("ab"), types: vec![], targets: vec![1], of_row: true });
    assert_eq!(sequences[1].targets, [0]);

    // Whole numbers are in the order of numbers, and labels all the same.
    let rows: String = [10, 9, 2].iter().map(|n| format!("{{\"text\": \"a\", \"label\": {n}}}\n")).collect();
    let (task, sequences) = labelled(&folder, "b.jsonl", &rows, None).expect("labels");
    assert_eq!((names(&task), sequences[0].targets[0]), (vec!["2", "9", "10"], 2));
    let (task, sequences) = labelled(&folder, "b.jsonl", &rows, Some(TaskKind::Regression)).expect("scores");
    assert_eq!((task, f32::from_bits(sequences[0].targets[0])), (Task::Regression, 10.0));
    // One fraction makes scores of all.
    let (task, sequences) = labelled(&folder, "b.jsonl", &(rows + "{\"text\": \"a\", \"label\": -0.5}"), None).expect("scores");
    assert_eq!((task, f32::from_bits(sequences[3].targets[0])), (Task::Regression, -0.5));

    let rows = "{\"text\": \"ab\", \"label\": [\"x\", \"z\"]}\n{\"text\": \"c\", \"label\": []}\n{\"text\": \"d\", \"label\": [\"y\"]}";
    let (task, sequences) = labelled(&folder, "c.jsonl", rows, None).expect("labels");
    let numbers = |at: usize| sequences[at].targets.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<_>>();
    assert_eq!((task.kind(), names(&task)), (TaskKind::MultiLabel, vec!["x", "y", "z"]));
    assert_eq!([numbers(0), numbers(1), numbers(2)], [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
    let data = Dataset { path: "c".into(), sequences: sequences.clone(), max_length: 8, masking: None, cut: 0, dropped: 0 };
    assert_eq!(data.label_counts(&task), [1, 1, 1]);

    let rows = "{\"text\": \"ab\", \"label\": \"x\"}\n{\"text\": \"cd\", \"label\": \"y\"}";
    let (task, sequences) = labelled(&folder, "d.jsonl", rows, Some(TaskKind::Language)).expect("texts");
    assert_eq!((task, &sequences[0]), (Task::Language, &Sequence::new(ids("ab"))));
}

#[test]
fn the_first_token_of_a_word_has_its_label() {
    let folder = Folder::new("data-tags");
    let rows = "{\"tokens\": [\"ab\", \"c\", \"de\"], \"labels\": [\"B\", \"O\", \"B\"]}";
    let (task, sequences) = labelled(&folder, "a.jsonl", rows, None).expect("tags");
    assert_eq!((task.kind(), names(&task)), (TaskKind::Tagging, vec!["B", "O"]));
    // In bytes, a space is a token, which belongs to the word after it.
    assert_eq!((&sequences[0].tokens, &sequences[0].targets), (&ids("ab c de"), &vec![0, NO, 1, NO, 0, NO, NO]));
    let rows = "{\"tokens\": [\"abcdefg\", \"hij\"], \"labels\": [\"B\", \"O\"]}";
    let (_, sequences) = labelled(&folder, "b.jsonl", rows, None).expect("tags");
    assert_eq!(sequences[0].targets, [0, NO, NO, NO, NO, NO, NO, 1]);
}

#[test]
fn tables_have_rows() {
    let folder = Folder::new("data-tables");
    let csv = "\u{FEFF}label,text,id\nx,\"a, \"\"b\"\"\",1\ny,c,2\n";
    let (task, sequences) = labelled(&folder, "a.csv", csv, None).expect("a table");
    assert_eq!((names(&task), &sequences[0].tokens), (vec!["x", "y"], &ids("a, \"b\"")));
    let (task, sequences) = labelled(&folder, "a.tsv", "text\tlabel\na \"b\t1\nc\t2.5\n", None).expect("a table");
    assert_eq!((task, &sequences[0].tokens), (Task::Regression, &ids("a \"b")));
    let error = |name: &str, text: &str| labelled(&folder, name, text, None).expect_err(text).to_string();
    assert!(error("b.csv", "sentence,label\na,x\n").contains("no column 'text'"));
    assert!(error("b.csv", "text,label\na,x\nb\n").contains("line 3 is not a row of the table (it has 1 cell, but the header has 2)"));
}

#[test]
fn labels_that_cannot_be_are_named() {
    let folder = Folder::new("data-wrong-labels");
    let error = |rows: &str, wanted| labelled(&folder, "a.jsonl", rows, wanted).expect_err(rows).to_string();
    let (a, b) = (r#"{"text": "a", "label": "x"}"#, r#"{"text": "b", "label": "y"}"#);
    let cases = [
        (format!("{a}\n{a}"), None, "has only the label 'x'"),
        (format!("{a}\n{{\"text\": \"c\"}}\n{b}"), None, "line 2 has no 'label'"),
        (format!("{a}\n{b}\n{{\"text\": \" \", \"label\": \"x\"}}"), None, "line 3 has an empty 'text'"),
        (format!("{a}\n{b}\n{{\"text\": \"c\", \"label\": [\"x\"]}}"), None, "line 1 has a 'label' that is not a list"),
        (format!("{a}\n{b}"), Some(TaskKind::Regression), "line 1 has a 'label' that is not a number"),
        (format!("{a}\n{b}"), Some(TaskKind::Tagging), "has no labels for tagging"),
        (format!("{a}\n{{\"text\": \"a\", \"text_pair\": \"b\", \"label\": \"y\"}}"), None, "line 2 cannot be used"),
        (format!("{a}\n{{\"text\": \"a\", \"label\": {{}}}}"), None, "line 2 has a 'label' that is neither"),
        (r#"{"tokens": ["a"], "labels": ["x", "y"]}"#.into(), None, "line 1 has 1 'tokens' but 2 'labels'"),
        (r#"{"tokens": ["a", ""], "labels": ["x", "y"]}"#.into(), None, "line 1 has an empty word, number 2"),
    ];
    for (rows, wanted, words) in cases {
        let error = error(&rows, wanted);
        assert!(error.contains("a.jsonl") && error.contains(words), "'{error}' does not say '{words}'");
    }
    // A label that only the data to measure have.
    let task = Task::of(&folder.put("train.jsonl", format!("{a}\n{b}")), None).expect("two labels");
    let options = DataOptions { max_length: 8, train_on_prompt: false, task };
    let other = folder.put("test.jsonl", format!("{a}\n{{\"text\": \"a\", \"label\": \"new\"}}"));
    let error = Dataset::read(&other, &folder.bytes("{}"), &options).expect_err("an unknown label").to_string();
    assert!(error.contains("line 2 has the label 'new', which is not one of the 2 labels that the head knows (x, y)"), "{error}");
    // Rows to predict need no label, and lines of a text are rows.
    let data = Dataset::read_unlabelled(&folder.put("new.txt", "ab\ncdefghijk\n"), &folder.bytes("{}"), &options).expect("two texts");
    assert_eq!((data.sequences.len(), data.cut, &data.sequences[0].tokens), (2, 1, &ids("ab")));
}

#[test]
fn batches_have_rows_of_like_lengths() {
    let folder = Folder::new("data-lengths");
    let tokenizer = folder.bytes("{}");
    let rows: String = (0..100).map(|n| format!("{{\"text\": \"{}\"}}\n", "a".repeat(2 + 7 * n % 50))).collect();
    let data = Dataset::read(&folder.put("a.jsonl", rows), &tokenizer, &options(512)).expect("rows");
    let padding = |batches: Vec<crate::text::Batch>| {
        let padded: u32 = batches.iter().map(|batch| batch.rows * batch.length).sum();
        let tokens: u32 = batches.iter().flat_map(|batch| &batch.lengths).sum();
        1.0 - f64::from(tokens) / f64::from(padded)
    };
    let batches = Batches::new(&data, 4, Some(1));
    let share = batches.padding();
    assert!(share < 0.15, "{share}");
    let all: Vec<_> = batches.take(25).collect();
    assert!((padding(all.clone()) - share).abs() < 1e-12);
    assert!(all.iter().all(|batch| batch.length < 8 + batch.lengths.iter().max().expect("rows")));
    // Neither sorted nor always the same.
    assert!(!all.is_sorted_by_key(|batch| batch.length));
    assert_ne!(all, Batches::new(&data, 4, Some(2)).take(25).collect::<Vec<_>>());
    assert_eq!(all[7..], Batches::new(&data, 4, Some(1)).starting_at(Position { epoch: 0, index: 7 }).take(18).collect::<Vec<_>>());
    assert!(padding(data.batches(4).collect()) < 0.15);
}

#[test]
fn rows_are_held_out() {
    let data = || Dataset {
        path: "a".into(),
        sequences: (0..20).map(|n| Sequence::new(vec![n, n])).collect(),
        max_length: 8,
        masking: None,
        cut: 0,
        dropped: 0,
    };
    let firsts = |data: &Dataset| data.sequences.iter().map(|row| row.tokens[0]).collect::<Vec<_>>();
    let mut kept = data();
    let held = kept.hold_out(0.25, Some(3)).expect("rows");
    assert_eq!((held.sequences.len(), kept.sequences.len()), (5, 15));
    let mut all = [firsts(&held), firsts(&kept)].concat();
    assert!(firsts(&held).is_sorted() && firsts(&kept).is_sorted() && firsts(&held) != [15, 16, 17, 18, 19]);
    all.sort();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
    assert_eq!(firsts(&data().hold_out(0.25, Some(3)).expect("rows")), firsts(&held));
    assert_eq!(firsts(&data().hold_out(0.25, None).expect("rows")), [15, 16, 17, 18, 19]);
}

/// A row of an encoder is framed, and all its words can be hidden; a text is cut into framed pieces.
#[test]
fn encoders_learn_the_words_between_their_frames() {
    let pairs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pairs");
    let folder = Folder::new("data-masked");
    let rows = folder.put("rows.jsonl", "{\"text\":\"the dog sleeps\",\"label\":\"x\"}\n{\"text\":\"fox\",\"text_pair\":\"the dog\"}\n");
    let text = folder.put("text.txt", "The quick brown fox jumps over the lazy dog. ".repeat(20));
    for (kind, mask) in [("uncased", "[MASK]"), ("roberta", "<mask>")] {
        let tokenizer = Tokenizer::read(&pairs.join(kind)).expect("a tokenizer");
        let options = |max_length| DataOptions { max_length, train_on_prompt: false, task: Task::Language };
        let data = Dataset::read(&rows, &tokenizer, &options(64)).expect("rows");
        let frame = tokenizer.encode_pair("fox", Some("the dog"), 64).expect("tokens");
        assert_eq!(data.sequences[1].tokens, frame.tokens, "{kind}");
        assert_eq!(data.sequences[1].types.is_empty(), kind == "roberta");
        let target = |at: usize| if frame.special[at] { NO } else { frame.tokens[at] };
        assert_eq!(data.sequences[1].targets, (0..frame.tokens.len()).map(target).collect::<Vec<_>>(), "{kind}");
        let masking = data.masking.expect("an encoder's");
        assert_eq!((tokenizer.token(masking.mask).as_deref(), masking.vocabulary), (Some(mask), tokenizer.vocab_size() as u32));

        let data = Dataset::read(&text, &tokenizer, &options(12)).expect("a text");
        assert!(data.sequences.len() > 10 && data.sequences.iter().all(|s| s.tokens.len() == 12 && s.targets() == 10), "{kind}");
        let words: Vec<_> = data.sequences.iter().flat_map(|s| s.tokens[1..11].to_vec()).collect();
        assert!(tokenizer.encode(&std::fs::read_to_string(&text).expect("a text")).expect("tokens").starts_with(&words), "{kind}");

        // Each epoch hides other words, a resumed run the same ones; measuring always hides the same.
        let of = |epoch, index| Batches::new(&data, 4, Some(3)).starting_at(Position { epoch, index }).take_next();
        assert_eq!(of(1, 2), of(1, 2));
        assert_ne!(of(0, 0).targets, of(1, 0).targets);
        assert!(of(0, 0).targets() >= 4 && of(0, 0).tokens.contains(&masking.mask), "{kind}");
        assert_eq!(data.batches(4).collect::<Vec<_>>(), data.batches(4).collect::<Vec<_>>());
        let short = Dataset::read(&text, &tokenizer, &options(2)).expect_err("no room").to_string();
        assert!(short.contains("the tokenizer adds 2 tokens to a text"), "{short}");
    }
    let tokenizer = Tokenizer::read(&pairs.join("uncased")).expect("a tokenizer");
    let chat = folder.put("chat.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n");
    let empty = folder.put("empty.jsonl", "{\"text\":\" \"}\n");
    for (file, words) in
        [(chat, "chat.jsonl: line 1 has no 'text', which is what an encoder learns"), (empty, "empty.jsonl: line 1 has no words")]
    {
        let options = DataOptions { max_length: 64, train_on_prompt: false, task: Task::Language };
        let error = Dataset::read(&file, &tokenizer, &options).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}

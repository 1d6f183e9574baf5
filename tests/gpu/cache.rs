//! Attention over a cache that several programs share, token by token and in chunks, compared with attention over the whole sequence.

use graftling::doctor::reference;
use graftling::error::Error;
use graftling::gpu::{Device, Memory, Program, State};
use graftling::graph::{DType, Graph, Parameters, Tensor, Traits};
use graftling::ops::{self, Attention};

use crate::harness::{Array, Check, Kind, Random, all_traits, builds, close, device};

/// A program that processes `length` tokens at a time, and its tensors.
struct Part {
    device: &'static Device,
    length: usize,
    program: Program,
    qkv: Tensor,
    start: Tensor,
    states: [Tensor; 2],
    y: Tensor,
}

/// Extra elements at the end of each state, outside the views that attention gets: nothing may be written there.
const BEHIND: u32 = 3 * 128;

fn record(g: &mut Graph, length: usize, context: u32, form: Attention) -> (Tensor, Tensor, [Tensor; 2], Tensor) {
    let shape = [form.key_value_heads, context, form.head_size];
    let qkv = g.input("qkv", [1, length as u32, (form.heads + 2 * form.key_value_heads) * form.head_size], DType::F32);
    let start = g.input("start", [1], DType::U32);
    let states = ["keys", "values"].map(|name| g.state(name, [shape.iter().product::<u32>() + BEHIND]));
    let [keys, values] = states.map(|state| g.view(state, "heads", 0, shape));
    let y = ops::cached_attention(g, qkv, keys, values, start, form);
    g.keep(y);
    (qkv, start, states, y)
}

/// One program for each of `lengths`; all share one cache.
fn parts(device: &'static Device, traits: &Traits, memory: &Memory, lengths: &[usize], context: u32, form: Attention) -> Vec<Part> {
    let mut state = None;
    let part = |&length: &usize| {
        let mut g = Graph::new(traits, memory.parameters(), false);
        let (qkv, start, states, y) = record(&mut g, length, context, form);
        assert!(states.iter().all(|s| g.plan().buffer[s.index()].is_none()), "the plan assigned a buffer to a state");
        let state = state.get_or_insert_with(|| State::new(device, &g).expect("memory"));
        assert_eq!(state.bytes(), 2 * 4 * u64::from(context * form.key_value_heads * form.head_size + BEHIND));
        let program = Program::with_state_and_canaries(device, memory, state, &g).expect("a program");
        Part { device, length, program, qkv, start, states, y }
    };
    lengths.iter().map(part).collect()
}

impl Part {
    /// The rows of y for the given rows of qkv, which are padded to `length`.
    fn run(&mut self, memory: &Memory, start: usize, rows: &[f32], width: usize) -> Vec<f32> {
        let count = rows.len() / width;
        let mut padded = rows.to_vec();
        padded.resize(self.length * width, 50.0);
        self.program.write(self.device, self.qkv, &padded);
        self.program.write(self.device, self.start, &[start as u32]);
        self.program.run(self.device).expect("a run");
        assert_eq!(self.program.damaged_canary(self.device).expect("a read"), None, "written past the end");
        let y = self.program.read(self.device, memory, self.y).expect("a read");
        assert!(y.iter().all(|v| v.is_finite()), "padding is not finite");
        y[..y.len() / self.length * count].to_vec()
    }

    fn states(&self, memory: &Memory) -> [Vec<f32>; 2] {
        self.states.map(|state| self.program.read(self.device, memory, state).expect("a read"))
    }
}

/// Attention over the whole sequence, in f64.
fn reference(qkv: &[f32], form: &Attention) -> Vec<f64> {
    let exact: Vec<f64> = qkv.iter().map(|&v| f64::from(v)).collect();
    let length = qkv.len() / ((form.heads + 2 * form.key_value_heads) * form.head_size) as usize;
    reference::attention(&exact, &[length], length, form, 0)
}

/// `ops::attention` over the whole sequence.
fn uncached(device: &Device, traits: &Traits, memory: &Memory, qkv: &[f32], form: Attention) -> Vec<f64> {
    let width = ((form.heads + 2 * form.key_value_heads) * form.head_size) as usize;
    let length = (qkv.len() / width) as u32;
    let mut g = Graph::new(traits, memory.parameters(), false);
    let (x, lengths) = (g.input("qkv", [1, length, width as u32], DType::F32), g.input("lengths", [1], DType::U32));
    let y = ops::attention(&mut g, x, lengths, form);
    g.keep(y);
    let mut program = Program::new(device, memory, &g).expect("a program");
    program.write(device, x, qkv);
    program.write(device, lengths, &[length]);
    program.run(device).expect("a run");
    program.read(device, memory, y).expect("a read").iter().map(|&v| f64::from(v)).collect()
}

/// Runs `chunks` through a program of 8 tokens, padding shorter chunks, then one token at a time up to `length`; then again over what a
/// longer sequence left in the cache.
fn check(form: Attention, chunks: &[usize], length: usize, context: u32) {
    for traits in [device().traits().clone(), Traits { cpu: false, ..device().traits().clone() }] {
        for device in builds() {
            check_with(device, &traits, form, chunks, length, context);
        }
    }
}

fn check_with(device: &'static Device, traits: &Traits, form: Attention, chunks: &[usize], length: usize, context: u32) {
    let width = ((form.heads + 2 * form.key_value_heads) * form.head_size) as usize;
    let memory = Memory::new(device, &Parameters::default(), false).expect("memory");
    let mut random = Random(31);
    let mut sequence = |length: usize| random.values(length * width).iter().map(|v| v * 2.0).collect::<Vec<_>>();
    let (other, qkv) = (sequence(context as usize), sequence(length));
    let mut parts = parts(device, traits, &memory, &[8, 1], context, form);
    let mut run = |qkv: &[f32], chunks: &[usize]| {
        let (mut y, mut at) = (Vec::new(), 0);
        let singles = qkv.len() / width - chunks.iter().sum::<usize>();
        for &count in chunks.iter().chain(&vec![1; singles]) {
            let part = &mut parts[usize::from(at >= chunks.iter().sum())];
            y.extend(part.run(&memory, at, &qkv[at * width..][..count * width], width));
            at += count;
        }
        (y, parts[0].states(&memory))
    };

    let name = format!("{form:?}, {chunks:?} of {length} in {context}, cpu {}", traits.cpu);
    let (y, states) = run(&qkv, chunks);
    close(&name, &y, &reference(&qkv, &form), 1e-5);
    close(&format!("{name}, uncached"), &y, &uncached(device, traits, &memory, &qkv, form), 1e-5);
    let (heads, shared, size) = (form.heads as usize, form.key_value_heads as usize, form.head_size as usize);
    let end = shared * context as usize * size;
    for (i, state) in states.iter().enumerate() {
        for (t, head) in (0..length).flat_map(|t| (0..shared).map(move |head| (t, head))) {
            let cached = &state[(head * context as usize + t) * size..][..size];
            let given = &qkv[t * width + (heads + i * shared + head) * size..][..size];
            assert_eq!(cached, given, "{name}: the cached head {head} of token {t}");
        }
        assert!(state[end..].iter().all(|&v| v == 0.0), "{name}: written past the context");
    }
    // A full context in chunks of 8; the padding of the last chunk reaches past the context.
    let full: Vec<usize> = (0..context as usize).step_by(8).map(|at| 8.min(context as usize - at)).collect();
    let (all, states) = run(&other, &full);
    close(&format!("{name}, full"), &all, &reference(&other, &form), 1e-5);
    assert!(states.iter().all(|s| s[end..].iter().all(|&v| v == 0.0)), "{name}: written past the context");
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&run(&qkv, chunks).0), bits(&y), "{name}: a second run over a used cache differs");
}

#[test]
fn chunks_and_single_tokens() {
    let form = Attention { heads: 4, key_value_heads: 2, head_size: 8, causal: true, dropout: 0.0 };
    check(form, &[8, 8, 2], 21, 29);
    // More keys than lanes, three query heads that share one key head, a full context.
    check(Attention { heads: 3, key_value_heads: 1, ..form }, &[8, 8, 8, 8, 8, 5], 75, 75);
    check(Attention { heads: 1, key_value_heads: 1, ..form }, &[1], 3, 3);
}

#[test]
fn wide_heads() {
    let form = Attention { heads: 4, key_value_heads: 2, head_size: 64, causal: true, dropout: 0.0 };
    check(form, &[8, 8, 5], 23, 37);
    check(Attention { heads: 2, key_value_heads: 1, head_size: 128, ..form }, &[8, 8, 5], 23, 37);
}

/// Large scores on few keys: nothing overflows, and lanes without a key contribute nothing.
#[test]
fn large_scores() {
    let form = Attention { heads: 1, key_value_heads: 1, head_size: 8, causal: true, dropout: 0.0 };
    for device in builds() {
        let memory = Memory::new(device, &Parameters::default(), false).expect("memory");
        let mut parts = parts(device, device.traits(), &memory, &[8], 8, form);
        let qkv: Vec<f32> = Random(3).values(8 * 24).iter().map(|v| v * 25.0).collect();
        close("large scores", &parts[0].run(&memory, 0, &qkv, 24), &reference(&qkv, &form), 1e-4);
    }
}

#[test]
fn positions_from_a_start() {
    let (length, hidden, context) = (4, 6, 9);
    for (start, with_start) in [(0u32, false), (0, true), (3, true), (5, true), (7, true), (u32::MAX, true)] {
        let mut random = Random(17);
        let arrays = [
            Array::input(&[1, length, hidden], &mut random),
            Array::new(Kind::Frozen(DType::F16), &[context, hidden], &mut random),
            Array { shape: vec![1], kind: Kind::Frozen(DType::F32), values: vec![f32::from_bits(start)] },
        ];
        let name = format!("positions from {start}");
        let check = Check { name: &name, traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: false };
        check.run(
            |g, t| ops::positions(g, t[0], t[1], 0, with_start.then_some(t[2])),
            |v| {
                let row = |i: usize| (start as usize + i / hidden).min(context - 1);
                v[0].iter().enumerate().map(|(i, x)| x + v[1][row(i) * hidden + i % hidden]).collect()
            },
        );
    }
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let memory = Memory::new(device(), &Parameters::default(), false).expect("memory");
    let graph = |label: &str, rows: u64| {
        let mut g = Graph::new(device().traits(), memory.parameters(), false);
        g.state(label, [rows as usize, 4].as_slice());
        g
    };
    let too_much = device().info().max_binding / 16 + 1;
    let error = State::new(device(), &graph("h0.keys", too_much)).err().expect("an error");
    assert!(matches!(&error, Error::Limit { what, advice, .. } if what.contains("h0.keys") && advice.contains("context")), "{error}");

    let state = State::new(device(), &graph("keys", 5)).expect("memory");
    assert!(Program::with_state(device(), &memory, &state, &graph("keys", 5)).is_ok());
    for other in [graph("keys", 6), graph("values", 5), Graph::new(device().traits(), memory.parameters(), false)] {
        let made = std::panic::AssertUnwindSafe(|| Program::with_state(device(), &memory, &state, &other).is_ok());
        assert!(std::panic::catch_unwind(made).is_err(), "a state of another recording was accepted");
    }
    let made = std::panic::AssertUnwindSafe(|| Program::new(device(), &memory, &graph("keys", 5)).is_ok());
    assert!(std::panic::catch_unwind(made).is_err(), "a recording with states was accepted without memory for them");
}

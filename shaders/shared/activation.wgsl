//! use value

// The activations of bottlenecks and feed-forward layers, and their derivatives, selected by the number of Rust's `Activation`.
// Names and formulas are those of the `transformers` library; "gelu" is the exact form with erf.

// erf(x) with an absolute error of 1.2e-7. libm follows W. J. Cody, "Rational Chebyshev approximation for the error function" (1969);
// this is a shorter pair of polynomials in the style of N. Juffa: one near zero, and beyond it one for the argument of exp.
fn erf(x: Value) -> Value {
    let a = abs(x);
    let s = x * x;
    var near = Value(-5.96761703e-4);
    near = fma(near, s, Value(4.99119423e-3));
    near = fma(near, s, Value(-2.67681349e-2));
    near = fma(near, s, Value(1.12819925e-1));
    near = fma(near, s, Value(-3.76125336e-1));
    near = fma(near, s, Value(1.28379166e-1));
    let t = min(a, Value(4.0));
    var far = Value(-1.72853470e-5);
    far = fma(far, t, Value(3.83197126e-4));
    far = fma(far, t, Value(-3.88396438e-3));
    far = fma(far, t, Value(2.42546219e-2));
    far = fma(far, t, Value(-1.06777877e-1));
    far = fma(far, t, Value(-6.34846687e-1));
    far = fma(far, t, Value(-1.28717512e-1));
    far = fma(far, t, -t);
    return select(sign(x) * (1.0 - exp(far)), fma(near, x, x), a < Value(0.921875));
}

// The next three functions apply exp only to values that are not positive, so none of them overflows.
fn sigmoid(x: Value) -> Value {
    let e = exp(-abs(x));
    return select(e, Value(1.0), x >= Value(0.0)) / (1.0 + e);
}

fn stable_tanh(x: Value) -> Value {
    let e = exp(-2.0 * abs(x));
    return sign(x) * (1.0 - e) / (1.0 + e);
}

fn softplus(x: Value) -> Value {
    return max(x, Value(0.0)) + log(1.0 + exp(-abs(x)));
}

const ROOT_2_OVER_PI = 0.7978845608028654;

// The number of each activation, as in Rust.
const RELU = 0u;
const GELU = 1u;
const GELU_NEW = 2u;
const GELU_FAST = 3u;
const QUICK_GELU = 4u;
const SILU = 5u;
const LEAKY_RELU = 6u;
const MISH = 7u;
const SIGMOID = 8u;
const TANH = 9u;
const LINEAR = 10u;

// The argument of tanh in gelu_new and gelu_fast, a single formula that the library writes in two ways.
fn gelu_argument(x: Value) -> Value {
    return ROOT_2_OVER_PI * x * (1.0 + 0.044715 * x * x);
}

// `kind` is a constant of the kernel, so compilation removes the switch.
fn activate(kind: u32, x: Value) -> Value {
    switch kind {
        case RELU: { return max(x, Value(0.0)); }
        case GELU: { return 0.5 * x * (1.0 + erf(x * 0.7071067811865476)); }
        case GELU_NEW, GELU_FAST: { return 0.5 * x * (1.0 + stable_tanh(gelu_argument(x))); }
        case QUICK_GELU: { return x * sigmoid(1.702 * x); }
        case SILU: { return x * sigmoid(x); }
        case LEAKY_RELU: { return select(0.01 * x, x, x > Value(0.0)); }
        case MISH: { return x * stable_tanh(softplus(x)); }
        case SIGMOID: { return sigmoid(x); }
        case TANH: { return stable_tanh(x); }
        default: { return x; }
    }
}

// The derivative at x.
fn derivative(kind: u32, x: Value) -> Value {
    switch kind {
        case RELU: { return select(Value(0.0), Value(1.0), x > Value(0.0)); }
        case GELU: {
            // d/dx x·Φ(x) = Φ(x) + x·φ(x), where φ is the standard normal density, 1/sqrt(2π) included
            return 0.5 * (1.0 + erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * exp(-0.5 * x * x);
        }
        case GELU_NEW, GELU_FAST: {
            let t = stable_tanh(gelu_argument(x));
            return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ROOT_2_OVER_PI * (1.0 + 0.134145 * x * x);
        }
        case QUICK_GELU: {
            let s = sigmoid(1.702 * x);
            return s + 1.702 * x * s * (1.0 - s);
        }
        case SILU: {
            let s = sigmoid(x);
            return s + x * s * (1.0 - s);
        }
        case LEAKY_RELU: { return select(Value(0.01), Value(1.0), x > Value(0.0)); }
        case MISH: {
            let t = stable_tanh(softplus(x));
            return t + x * (1.0 - t * t) * sigmoid(x);
        }
        case SIGMOID: {
            let s = sigmoid(x);
            return s * (1.0 - s);
        }
        case TANH: {
            let t = stable_tanh(x);
            return 1.0 - t * t;
        }
        default: { return Value(1.0); }
    }
}

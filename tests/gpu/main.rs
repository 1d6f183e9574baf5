//! Every test that records or runs kernels, in one binary with one device.

mod activation;
mod adapter;
mod attention;
mod demo;
mod dropout;
mod embedding;
mod files;
mod gated;
mod harness;
mod linear;
mod loss;
mod models;
mod norm;
mod optimizer;
mod rope;
mod shaders;

//! Every test that records or runs kernels, in one binary with one device.

mod activation;
mod adapter;
mod attention;
mod cache;
mod cli;
mod demo;
mod doctor;
mod dropout;
mod embedding;
mod files;
mod gated;
mod harness;
mod head_norm;
mod linear;
mod loss;
mod models;
mod norm;
mod optimizer;
mod pretrain;
mod pretrained;
mod quant;
mod rope;
mod runs;
mod scale;
mod shaders;
mod smollm2;

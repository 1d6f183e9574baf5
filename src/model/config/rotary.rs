//! The keys of rotary positions, which several families share.

use super::Positions;
use crate::keyed::{Checked, Keyed};
use crate::ops::{RopePairs, RopeScaling};
use crate::weights::shown;

/// Takes the keys of rotary positions: `rope_theta` with `rope_scaling`, or version 5's `rope_parameters`.
pub(super) fn rotary(fields: &mut Keyed) -> Checked<Positions> {
    let theta = theta(fields)?;
    let (key, value) = match (fields.take("rope_scaling"), fields.take("rope_parameters")) {
        (Some(_), Some(_)) => return Err("has both rope_scaling and rope_parameters; remove one of them".into()),
        (Some(scaling), None) => ("rope_scaling", scaling),
        (None, Some(parameters)) => ("rope_parameters", parameters),
        (None, None) => ("rope_parameters", serde_json::json!({})),
    };
    let mut rope = Keyed::json(key, value)?;
    let mut thetas = vec![theta];
    if key == "rope_parameters" {
        thetas.push(self::theta(&mut rope)?);
        rope.only("partial_rotary_factor", 1)?;
    }
    let mut thetas = thetas.into_iter().flatten();
    let theta = thetas.next().unwrap_or(10000.0);
    if thetas.any(|other| other != theta) {
        return Err("has two different values of rope_theta, inside rope_parameters and outside; remove one of them".into());
    }

    let kind = match (rope.text("rope_type")?, rope.text("type")?) {
        (Some(kind), Some(old)) if kind != old => {
            let (kind, old) = (shown(&kind), shown(&old));
            return Err(format!("has {key}.rope_type = \"{kind}\" and {key}.type = \"{old}\"; remove one of them"));
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) if key == "rope_parameters" => "default".into(),
        (None, None) => return Err(rope.missing("rope_type")),
    };
    let scaling = match &kind[..] {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear(stretch(&mut rope)?),
        "llama3" => {
            let mut positive =
                |key: &str| rope.number(key, "a number above 0 up to 1000", |n| n > 0.0 && n <= 1000.0)?.ok_or_else(|| rope.missing(key));
            let (low_freq_factor, high_freq_factor) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
            if low_freq_factor >= high_freq_factor {
                let factors = format!("low_freq_factor = {low_freq_factor} and high_freq_factor = {high_freq_factor}");
                return Err(format!("has {key}.{factors}, but the second must be larger; fetch the file again"));
            }
            let original = rope.required("original_max_position_embeddings")?.into();
            RopeScaling::Llama3 { factor: stretch(&mut rope)?, low_freq_factor, high_freq_factor, original }
        }
        other => return Err(format!("has {key} of type \"{}\", which is not supported; default, linear and llama3 are", shown(other))),
    };
    rope.finish(|_| false)?;
    Ok(Positions::Rotary { theta, scaling, pairs: RopePairs::Halves })
}

fn theta(fields: &mut Keyed) -> Checked<Option<f64>> {
    fields.number("rope_theta", "a number from 1 to 1e15", |n| (1.0..=1e15).contains(&n))
}

/// The factor by which wavelengths grow.
fn stretch(rope: &mut Keyed) -> Checked<f64> {
    let factor = rope.number("factor", "a number from 1 to 1000000", |n| (1.0..=1e6).contains(&n))?;
    factor.ok_or_else(|| rope.missing("factor"))
}

//! On which execution providers a session's nodes really ran: read from ONNX Runtime's own profile of one run.
//!
//! The request alone does not tell: TensorRT leaves parts that it can't run to CUDA, and for ONNX Runtime a provider that
//! runs no node at all is not an error.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An event of the profile (<https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html>).
#[derive(Deserialize)]
struct Event {
    cat: Option<String>,
    #[serde(default)]
    name: String,
    /// Microseconds.
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    provider: Option<String>,
}

/// What ran on one provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Share {
    /// `CPU`, `CUDA`, `TensorRT`, or as ONNX Runtime calls it.
    pub provider: String,
    /// Nodes of the graph as it was optimised for the providers.
    pub nodes: usize,
    /// Microseconds that they took.
    us: f64,
}

/// The providers that ran nodes in a profile, the one that took longest first.
///
/// # Errors
/// What is wrong with the profile.
pub(super) fn shares(profile: &str) -> Result<Vec<Share>, String> {
    let events: Vec<Event> = serde_json::from_str(profile).map_err(|e| e.to_string())?;
    let mut by_provider: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for event in events {
        let is_node = event.cat.as_deref() == Some("Node") && event.name.ends_with("_kernel_time");
        let Some(provider) = event.args.provider.filter(|p| is_node && !p.is_empty()) else {
            continue;
        };
        let known = match provider.as_str() {
            "TensorrtExecutionProvider" => "TensorRT",
            other => other.strip_suffix("ExecutionProvider").unwrap_or(other),
        };
        let entry = by_provider.entry(known.to_owned()).or_default();
        entry.0 += 1;
        entry.1 += event.dur;
    }
    let mut shares: Vec<Share> = by_provider
        .into_iter()
        .map(|(provider, (nodes, us))| Share { provider, nodes, us })
        .collect();
    shares.sort_by(|a, b| b.us.total_cmp(&a.us).then_with(|| a.provider.cmp(&b.provider)));
    Ok(shares)
}

/// The provider that ran, as status and metrics show it; where several did, all, the one that took longest first.
///
/// # Errors
/// That the one that was asked for ran nothing.
pub(super) fn provider(shares: &[Share], asked: &str) -> Result<String, String> {
    let nodes: Vec<String> = shares
        .iter()
        .map(|share| format!("{} nodes on {}", share.nodes, share.provider))
        .collect();
    if !shares.iter().any(|share| share.provider == asked) {
        return Err(format!(
            "no node ran on {asked}: {}",
            if nodes.is_empty() {
                "none ran".to_owned()
            } else {
                nodes.join(", ")
            }
        ));
    }
    let names: Vec<&str> = shares.iter().map(|share| share.provider.as_str()).collect();
    Ok(names.join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ONNX Runtime writes it, cut to what is read and two events around it.
    const MIXED: &str = r#"[
{"cat" : "Session","pid" :1,"tid" :1,"dur" :2503,"ts" :3,"ph" : "X","name" :"model_loading_array","args" : {}},
{"cat" : "Node","pid" :1,"tid" :1,"dur" :4,"ts" :10,"ph" : "X","name" :"conv1_fence_before","args" : {"op_name" : "Conv"}},
{"cat" : "Node","pid" :1,"tid" :1,"dur" :900,"ts" :11,"ph" : "X","name" :"trt_0_kernel_time","args" : {"op_name" : "TRTKernel_graph_0","provider" : "TensorrtExecutionProvider","node_index" : "0"}},
{"cat" : "Node","pid" :1,"tid" :1,"dur" :30,"ts" :12,"ph" : "X","name" :"resize_kernel_time","args" : {"op_name" : "Resize","provider" : "CUDAExecutionProvider","node_index" : "1"}},
{"cat" : "Node","pid" :1,"tid" :1,"dur" :20,"ts" :13,"ph" : "X","name" :"cast_kernel_time","args" : {"op_name" : "Cast","provider" : "CUDAExecutionProvider","node_index" : "2"}},
{"cat" : "Session","pid" :1,"tid" :1,"dur" :1000,"ts" :9,"ph" : "X","name" :"model_run","args" : {}}
]"#;

    #[test]
    fn nodes_are_counted_by_where_they_ran() {
        let shares = shares(MIXED).unwrap();
        let found: Vec<(&str, usize)> = shares.iter().map(|s| (s.provider.as_str(), s.nodes)).collect();
        assert_eq!(found, [("TensorRT", 1), ("CUDA", 2)]);
        assert_eq!(provider(&shares, "TensorRT").unwrap(), "TensorRT+CUDA");
    }

    #[test]
    fn a_provider_that_ran_nothing_is_not_reported_as_running() {
        let cuda_alone = MIXED.replace("TensorrtExecutionProvider", "CUDAExecutionProvider");
        let shares = shares(&cuda_alone).unwrap();
        assert_eq!(provider(&shares, "CUDA").unwrap(), "CUDA");
        let why = provider(&shares, "TensorRT").unwrap_err();
        assert_eq!(why, "no node ran on TensorRT: 3 nodes on CUDA");
        assert_eq!(provider(&[], "CPU").unwrap_err(), "no node ran on CPU: none ran");
    }

    #[test]
    fn what_is_no_profile_is_an_error() {
        for text in ["", "[", "{}", "[1]", r#"[{"cat":1}]"#] {
            assert!(shares(text).is_err(), "{text}");
        }
        assert_eq!(shares("[]").unwrap(), []);
    }
}

//! A step as a trace that Chrome's `about:tracing` and Perfetto show.

use serde_json::{Value, json};

use super::Profile;

/// The scopes one after the other: ops on one row, layers on another.
pub fn chrome_trace(profile: &Profile) -> Value {
    let mut at = 0.0;
    let mut events = Vec::new();
    for scope in &profile.scopes {
        let (start, duration) = (1e6 * at, 1e6 * scope.seconds);
        at += scope.seconds;
        let name = format!("{} {}", scope.op, scope.direction);
        let details = json!({
            "scope": scope.scope,
            "flops": scope.flops,
            "bytes": scope.bytes,
            "limit_us": 1e6 * scope.limit_seconds,
            "bound": scope.bound,
        });
        events.push(json!({
            "name": name, "cat": scope.op, "ph": "X", "ts": start, "dur": duration, "pid": 1, "tid": 1, "args": details
        }));
    }
    // Scopes that follow each other in one layer are one span on a second row.
    let layer = |scope: &str| scope.split('/').take(2).collect::<Vec<_>>().join("/");
    let mut start = 0.0;
    for run in profile.scopes.chunk_by(|a, b| layer(&a.scope) == layer(&b.scope) && a.direction == b.direction) {
        let seconds: f64 = run.iter().map(|scope| scope.seconds).sum();
        let name = format!("{} {}", layer(&run[0].scope), run[0].direction);
        events.push(json!({
            "name": name, "cat": "layer", "ph": "X", "ts": 1e6 * start, "dur": 1e6 * seconds, "pid": 1, "tid": 0
        }));
        start += seconds;
    }
    for (thread, name) in [(0, "layers"), (1, "ops")] {
        events.push(json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}));
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"device": profile.device}})
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_follow_each_other_and_layers_hold_their_ops() {
        let trace = super::chrome_trace(&crate::profile::report::tests::sample());
        let events = trace["traceEvents"].as_array().unwrap();
        let ops: Vec<_> = events.iter().filter(|event| event["tid"] == 1 && event["ph"] == "X").collect();
        assert_eq!(ops.len(), 4);
        assert_eq!((ops[2]["ts"].as_f64(), ops[2]["dur"].as_f64()), (Some(3e6), Some(4e6)));
        let layers: Vec<_> = events.iter().filter(|event| event["tid"] == 0 && event["ph"] == "X").collect();
        assert_eq!((layers.len(), layers[0]["dur"].as_f64()), (3, Some(3e6)));
    }
}

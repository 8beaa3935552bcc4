//! Millrace: stateful stream processing that belongs to Kubernetes.

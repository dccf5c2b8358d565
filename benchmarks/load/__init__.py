"""The service under the load of thirty people, and Optuna's storages beside it: `python -m benchmarks.load`."""

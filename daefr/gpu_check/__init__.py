"""What a GPU does with this project: one command that measures and checks it, without Ray or MLflow.

`items` lists the checks in order of importance, one module each; `runner` runs them within a time limit and keeps what
was measured; `workload` builds the stages that they train, with random weights and images.
"""

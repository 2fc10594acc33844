"""Tasks: what is predicted, how a teacher's knowledge of it is distilled, and how it is measured."""

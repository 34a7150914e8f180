"""What was seen, and how MLflow comes to show it. Nothing here shapes a result.

1. ``journal``: a stage writes down what happens, line by line, beside its work; that is all a training waits for.
   ``events`` says what a line may hold.
2. ``mirror``: a process beside a training sends the journal to MLflow while it grows.
3. ``records`` reads journals: names, texts and numbers as MLflow accepts them.
4. ``tracker`` sends records, each number once, however often it is called; ``artifacts`` their files, ``logged_models``
   encoders with their scores.

``tasks.sync`` sends what is missing. MLflow is imported here and in ``tasks/register`` alone.
"""

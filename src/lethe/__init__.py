"""The science of lethe: corpora, tokens, models, training, interventions, evaluation. Knows no Ray and no MLflow."""

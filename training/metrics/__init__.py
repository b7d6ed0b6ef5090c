"""Metrics as pure functions of arrays: CMC, mAP and mINP, re-ranking, and thresholds on the cosine."""

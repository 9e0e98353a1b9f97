"""The student as a thing that ships: shapes, weights, quantized copies."""

"""Trainings that tenants ask for: accepted, validated, handed to a trainer, followed to their end. Knows no trainer."""

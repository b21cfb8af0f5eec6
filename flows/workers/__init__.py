"""Stages that run on other machines."""

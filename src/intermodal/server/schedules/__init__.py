"""Functions that run by themselves: `modal.Cron` and `modal.Period`, while their app is deployed or served."""

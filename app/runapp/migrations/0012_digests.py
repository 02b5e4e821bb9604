from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runapp', '0011_reported_at'),
    ]

    operations = [
        migrations.AddField(
            model_name='rawdata',
            name='digest',
            field=models.CharField(blank=True, editable=False, help_text='of the files as they were sent', max_length=64),
        ),
        migrations.AddField(
            model_name='rawdata',
            name='sums_digest',
            field=models.CharField(blank=True, editable=False, help_text='SHA-256 of the sums of the version in use', max_length=64),
        ),
        migrations.AddField(
            model_name='submission',
            name='digest',
            field=models.CharField(blank=True, editable=False, help_text='of the files as they were sent', max_length=64),
        ),
    ]

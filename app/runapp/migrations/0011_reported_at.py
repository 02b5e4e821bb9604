from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runapp', '0010_packages'),
    ]

    operations = [
        migrations.AddField(
            model_name='submissionfold',
            name='reported_at',
            field=models.DateTimeField(help_text='when its runner last said how far it is, by our clock', null=True),
        ),
        migrations.AddField(
            model_name='runner',
            name='signed',
            field=models.BooleanField(default=False, help_text='RabbitMQ vouches for its reports'),
        ),
    ]
